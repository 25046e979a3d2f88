"""`rlmem eval`: returns of an agent in episodes on seeds not used in training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from rlmem.envs.base import VecEnv
from rlmem.envs.given import Batch, Given
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError
from rlmem.files import atomic_write, expanded
from rlmem.policies import Policy
from rlmem.runs import build, checkpoint, sealed, trust
from rlmem.runs.agent import load as load_agent
from rlmem.runs.folder import require_usable
from rlmem.runs.playing import CHUNK, MAX_STEPS, Watch, play, summary
from rlmem.runs.progress import Progress
from rlmem.runs.scores import bounds, memory_score
from rlmem.runs.size_limit import limited


class Trained(NamedTuple):
    """A trained policy with its run's configuration and its checkpoint's step.

    An agent file has only the part of the configuration that its evaluation needs. `given` is the
    environment of its evaluations itself, if Python has given it.
    """

    run_dir: Path
    cfg: DictConfig
    policy: Policy
    step: int
    device: torch.device
    given: Given | None = None

    def make_env(self, num_envs: int) -> VecEnv:
        """The environment of the run, `num_envs` copies."""
        return build.make_env(self.cfg, num_envs, self.device, self.given)


def load(
    path: str | Path,
    which: str | int = "last",
    device: str | None = None,
    trusted: bool = False,
    env: str | None = None,
) -> Trained:
    """The agent of a run folder or of an agent file, as `load_run` and `load_file`."""
    path = expanded(path)
    if not path.exists():
        raise UsageError(f"{path} is neither a run folder nor an agent file")
    read = load_file if path.is_file() else load_run
    return read(path, which, device, trusted, env)


def load_run(
    run_dir: str | Path,
    which: str | int = "last",
    device: str | None = None,
    trusted: bool = False,
    env: str | None = None,
) -> Trained:
    """The agent of a run folder, on `device` (None: the run's device).

    `env` is the place of its environment, if that is code which the user names. Raises `UsageError`
    for code that only the folder names, unless it is `trusted`.
    """
    cfg = build.load_config(run_dir)
    _choose_env(cfg, run_dir, trusted, env)
    run_device = build.resolve_device(device or cfg.device)
    loaded = checkpoint.load(run_dir, which, trainer=False)
    with limited(None if trusted else loaded.weights, run_dir):
        made = build.make_env(cfg, 1, run_device)
        policy = build.make_policy(cfg, made).to(run_device)
        policy.initial_state(1)
        made.close()
    loaded.load_weights(policy)
    return Trained(Path(run_dir), cfg, policy, loaded.step, run_device)


def load_file(
    path: Path,
    which: str | int = "last",
    device: str | None = None,
    trusted: bool = False,
    env: str | None = None,
) -> Trained:
    """The agent of a file, in the environment of its training, as `load_run`.

    Raises `UsageError` for a file that names none.
    """
    agent = load_agent(path, str(build.resolve_device(device or "cpu")), which, trusted)
    if agent.spec.training is None:
        raise UsageError(
            f"{path} does not name its environment: it was given in Python, or rlmem was older "
            "(rlmem.evaluate(agent, env) takes any)"
        )
    names = {"algo": {"name": agent.spec.algo}, "core": {"name": agent.spec.core}}
    options = dict(agent.spec.training)
    step = int(options.pop("step", 0))
    cfg = OmegaConf.create({**options, **names})
    _choose_env(cfg, path, trusted, env)
    return Trained(path, cfg, agent.policy, step, agent.device)


def _choose_env(cfg: DictConfig, where: str | Path, trusted: bool, env: str | None) -> None:
    """Put code that the user names into a configuration; raise for other code in it."""
    if env is not None:
        if cfg.env.name != "gym":
            raise UsageError(f"env={env}: {where} was trained with env={cfg.env.name}")
        cfg.env.id = env
    trust.require_code(build.plain(cfg), where, trusted, ["env"] if env else [])


def run(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate a checkpoint of a run, or an agent file; writes `eval.json` into a run's folder."""
    trained = load(cfg.run, cfg.checkpoint, cfg.device, cfg.trust, cfg.environment)
    seed = trained.cfg.seed if cfg.seed is None else cfg.seed
    deterministic = True if cfg.deterministic is None else cfg.deterministic
    settings = {"step": trained.step, "seed": seed, "deterministic": deterministic}
    is_run = trained.run_dir.is_dir()
    if is_run:
        require_usable("run", trained.run_dir)
    torch.manual_seed(seed)
    max_steps = cfg.eval_max_steps or trained.cfg.get("eval_max_steps", MAX_STEPS)
    with Progress("episodes", cfg.episodes) as progress:
        measured = evaluate if is_run else measure
        return measured(trained, settings, cfg.episodes, Watch(max_steps, progress))


def evaluate(
    trained: Trained, settings: dict[str, Any], episodes: int, watch: Watch
) -> dict[str, Any]:
    """`measure` an agent and write `eval.json`; returns its content."""
    content = measure(trained, settings, episodes, watch)
    write_report(trained.run_dir, content)
    return content


def measure(
    trained: Trained, settings: dict[str, Any], episodes: int, watch: Watch
) -> dict[str, Any]:
    """Evaluate an agent with the `seed` and `deterministic` of `settings`.

    Returns the settings, a summary of the returns, and the returns. Prints a line on stderr if
    episodes were cut.
    """
    seeds = eval_seeds(settings["seed"], episodes)
    chunk = min(CHUNK, trained.given.num_envs) if isinstance(trained.given, Batch) else CHUNK
    greedy = settings["deterministic"]
    returns = play(trained.policy, trained.make_env, seeds, greedy, chunk, watch)
    print_unfinished(watch, f"{episodes} episodes", trained.cfg)
    return report(trained.cfg.env, settings | {"unfinished": watch.unfinished}, returns)


def print_unfinished(watch: Watch, played: str, cfg: DictConfig) -> None:
    """Print a line on stderr if some of the `played` episodes or trials were cut."""
    if watch.unfinished:
        limit = "env.max_episode_steps=N ends episodes, " if "max_episode_steps" in cfg.env else ""
        print(
            f"{watch.unfinished} of {played} did not end within {watch.max_steps:,} steps an "
            f"episode and count as they are ({limit}eval_max_steps=N plays longer)",
            file=sys.stderr,
        )


def report(env: DictConfig, settings: dict[str, Any], returns: list[float]) -> dict[str, Any]:
    """The settings, a summary of the returns with the memory score, and the returns."""
    result = settings | summary(returns)
    # A mask remembers past actions for the agent, so the references do not apply.
    if "difficulty" in env and not env.get("action_mask", False):
        result["memory_score"] = memory_score(
            env.name, env.difficulty, env.get("previous_action", False), result["return_mean"]
        )
    return result | {"returns": returns}


def known_scores(env: DictConfig) -> dict[str, float]:
    """Known returns of an environment by name: without memory, and at the optimum."""
    # A mask remembers past actions for the agent, so the references do not apply.
    if "difficulty" not in env or env.get("action_mask", False):
        return {}
    found = bounds(env.name, env.difficulty, env.get("previous_action", False))
    return (
        {} if found is None else dict(zip(("best without memory", "optimum"), found, strict=True))
    )


def reported_step(run_dir: str | Path) -> int | None:
    """The step of the evaluation in `eval.json`; None without a readable one."""
    try:
        return int(sealed.read(Path(run_dir) / "eval.json")["step"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_report(run_dir: Path, content: dict[str, Any]) -> None:
    """Write `eval.json`."""
    atomic_write(run_dir / "eval.json", sealed.seal(content, indent=2))
