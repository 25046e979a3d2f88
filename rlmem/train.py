"""From a configuration to a trained agent in a run folder."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from rlmem import algos, checkpoint, envs, evaluate, tasks
from rlmem.algos import Algorithm, NonFiniteLoss
from rlmem.envs.base import VecEnv
from rlmem.envs.seeding import eval_seeds, train_seeds
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError, positive
from rlmem.log import RunLogger
from rlmem.policies import Policy
from rlmem.record import Recorder


def resolve_device(name: str) -> torch.device:
    """The device called `auto`, `cpu` or `cuda`; a `UsageError` if it is not to be had."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r} (allowed: auto, cpu, cuda, cuda:N)") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda, but torch finds no CUDA device here")
    return device


def options(node: DictConfig) -> dict[str, Any]:
    """The keywords of a configuration group: all its keys but `name`."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "name"}


def make_env(cfg: DictConfig, num_envs: int, device: torch.device) -> VecEnv:
    """`num_envs` copies of the configured environment, as the configured algorithm wants them."""
    env = envs.make(cfg.env.name, num_envs=num_envs, device=device, **options(cfg.env))
    return telling(env, cfg.algo.name) if "algo" in cfg else env


def telling(env: VecEnv, algo: str) -> VecEnv:
    """`env`, which tells the previous action and reward if agents of that algorithm read them."""
    known = isinstance(env, Trials) or not algos.reads_past(algo)
    return env if known else Trials(env, episodes=1)


def make_policy(cfg: DictConfig, env: VecEnv) -> Policy:
    """A fresh policy for the spaces of `env`, of the kind that the configured algorithm trains.

    Raises `UsageError`, which says which algorithms fit, where that one does not.
    """
    algos.require_fit(cfg.algo.name, env.action_space)
    return algos.policy_type(cfg.algo.name)(
        env.observation_space,
        env.action_space,
        core=cfg.core.name,
        core_options=options(cfg.core),
        hidden_size=cfg.hidden_size,
        layers=cfg.layers,
        **options(cfg.policy),
        **algos.policy_options(cfg.algo.name, options(cfg.algo)),
    )


def build(cfg: DictConfig, step: int = 0) -> tuple[VecEnv, Policy, Algorithm]:
    """Environment, policy and algorithm of a configuration, seeded for a run that is at `step`."""
    device = resolve_device(cfg.device)
    seed_everything(cfg.seed)
    env = make_env(cfg, positive("num_envs", cfg.num_envs), device)
    policy = make_policy(cfg, env).to(device)
    # A run that goes on plays other episodes than the ones it began with.
    seeds = train_seeds(cfg.seed, step + cfg.num_envs)[step:]
    folder = cfg.get("record")
    if folder is not None:
        env = Recorder(env, Path(folder), _about(cfg))
    algo = algos.make(cfg.algo.name, env=env, policy=policy, seed=seeds, **options(cfg.algo))
    if isinstance(env, Recorder):
        iterations = -(-(cfg.total_steps - step) // algo.steps_per_iteration)
        env.part.steps = iterations * algo.steps_per_iteration // env.num_envs
    return env, policy, algo


def _about(cfg: DictConfig) -> dict[str, Any]:
    """What a dataset says of the run that made it."""
    return {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("env", "algo")} | {
        "core": cfg.core.name,
        "seed": cfg.seed,
    }


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (third-party environments may draw from it)
    torch.manual_seed(seed)


def load_config(run_dir: str | Path) -> DictConfig:
    """The configuration of a run folder; a `UsageError` if it is not one."""
    path = checkpoint.require_run(run_dir) / "config.yaml"
    try:
        cfg = OmegaConf.load(path)
    except Exception as error:  # YAML and OmegaConf have errors of their own
        raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(cfg, DictConfig) or not {"env", "core", "algo", "policy"} <= set(cfg):
        raise UsageError(f"{path} is not the configuration of a run")
    return cfg


def run(cfg: DictConfig) -> float:
    """`rlmem train`: train (or go on), evaluate, and return the mean return of the evaluation.

    Raises `UsageError` where the loss is no longer finite, and `KeyboardInterrupt` after saving
    where the user stopped it.
    """
    for name in ("total_steps", "eval_episodes", "checkpoint_keep"):
        positive(name, cfg[name])
    if cfg.threads is not None:
        torch.set_num_threads(positive("threads", cfg.threads))
    point = None if cfg.resume is None else checkpoint.load(cfg.resume)
    run_dir = Path(cfg.run_dir)
    env, policy, algo = build(cfg, point.step if point else 0)
    try:
        if point:
            point.load_weights(policy)
            algo.load_state_dict(point.trainer["algo"])
            checkpoint.set_rng_state(point.trainer["rng"])
            checkpoint.discard_after(run_dir, point.step)
        run_dir.mkdir(parents=True, exist_ok=True)
        tasks.write(run_dir, env)
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
        with RunLogger(
            run_dir, cfg.total_steps, start_step=point.step if point else 0, **options(cfg.log)
        ) as logger:
            _learn(cfg, run_dir, algo, logger)
            result = _evaluate(cfg, run_dir, policy, logger.step)
            logger.finish(f"greedy return {result:.3f} over {cfg.eval_episodes} episodes")
    finally:
        env.close()
    return result


def _learn(cfg: DictConfig, run_dir: Path, algo: Algorithm, logger: RunLogger) -> None:
    """Iterate until `total_steps`, saving on the way and at the end, also of an interrupted run."""
    saved = logger.step
    score: float | None = None

    def save() -> None:
        state = {"algo": algo.state_dict()}
        checkpoint.save(
            run_dir, logger.step, algo.policy, state, keep=cfg.checkpoint_keep, score=score
        )

    with _interruptible() as interrupted:
        while logger.step < cfg.total_steps and not interrupted():
            try:
                metrics = algo.iterate(logger.step / cfg.total_steps)
            except NonFiniteLoss as error:
                raise UsageError(
                    f"training stopped at step {logger.step:,}: {error}; "
                    + _last_good(run_dir)
                    + " (a smaller algo.learning_rate may help)"
                ) from error
            logger.log(logger.step + algo.steps_per_iteration, metrics)
            score = metrics.get("episode_return", score)
            if cfg.checkpoint_every and logger.step - saved >= cfg.checkpoint_every:
                save()
                saved = logger.step
        if logger.step > saved:
            save()
        if interrupted() and logger.step < cfg.total_steps:
            raise KeyboardInterrupt


def _last_good(run_dir: Path) -> str:
    last = checkpoint.last(run_dir)
    return f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"


def _evaluate(cfg: DictConfig, run_dir: Path, policy: Policy, step: int) -> float:
    device = resolve_device(cfg.device)
    returns = evaluate.play(
        policy,
        lambda num_envs: make_env(cfg, num_envs, device),
        eval_seeds(cfg.seed, cfg.eval_episodes),
    )
    about = {"step": step, "seed": cfg.seed, "deterministic": True}
    return float(evaluate.report(run_dir, cfg.env, about, returns)["return_mean"])


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; the iteration in progress is finished first, a second one not."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
