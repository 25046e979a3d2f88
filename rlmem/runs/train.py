"""`rlmem train`: trains an agent and writes its run folder."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from omegaconf import DictConfig, OmegaConf

from rlmem.algos import Algorithm, NonFiniteLoss
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError, positive
from rlmem.policies import Policy
from rlmem.runs import checkpoint, evaluate, task_splits
from rlmem.runs.build import build, make_env, options, resolve_device
from rlmem.runs.log import RunLogger


def run(cfg: DictConfig) -> float:
    """Train or resume a run, then evaluate it; returns the mean return of the evaluation.

    Raises `UsageError` if the loss is not finite. Ctrl-C saves a checkpoint, then raises
    `KeyboardInterrupt`.
    """
    for name in ("total_steps", "eval_episodes", "checkpoint_keep"):
        positive(name, cfg[name])
    if cfg.threads is not None:
        torch.set_num_threads(positive("threads", cfg.threads))
    saved = None if cfg.resume is None else checkpoint.load(cfg.resume)
    start_step = saved.step if saved else 0
    run_dir = Path(cfg.run_dir)
    env, policy, algo = build(cfg, start_step)
    try:
        if saved:
            saved.load_weights(policy)
            algo.load_state_dict(saved.trainer["algo"])
            checkpoint.set_rng_state(saved.trainer["rng"])
            checkpoint.discard_after(run_dir, start_step)
        run_dir.mkdir(parents=True, exist_ok=True)
        task_splits.write(run_dir, env)
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
        with RunLogger(
            run_dir, cfg.total_steps, start_step=start_step, **options(cfg.log)
        ) as logger:
            _train(cfg, run_dir, algo, logger)
            result = _evaluate(cfg, run_dir, policy, logger.step)
            logger.finish(f"greedy return {result:.3f} over {cfg.eval_episodes} episodes")
    finally:
        env.close()
    return result


def _train(cfg: DictConfig, run_dir: Path, algo: Algorithm, logger: RunLogger) -> None:
    """Iterate until `total_steps` or Ctrl-C; saves checkpoints on the way and at the end."""
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
                    + _last_checkpoint(run_dir)
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


def _last_checkpoint(run_dir: Path) -> str:
    last = checkpoint.last(run_dir)
    return f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"


def _evaluate(cfg: DictConfig, run_dir: Path, policy: Policy, step: int) -> float:
    device = resolve_device(cfg.device)
    returns = evaluate.play(
        policy,
        lambda num_envs: make_env(cfg, num_envs, device),
        eval_seeds(cfg.seed, cfg.eval_episodes),
    )
    settings = {"step": step, "seed": cfg.seed, "deterministic": True}
    return float(evaluate.write_report(run_dir, cfg.env, settings, returns)["return_mean"])


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed.

    The first Ctrl-C lets the current iteration finish; a second one raises `KeyboardInterrupt`.
    """
    pressed = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
