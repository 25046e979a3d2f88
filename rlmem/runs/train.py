"""`rlmem train`: trains an agent and writes its run folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlmem.algos import Algorithm, LearnsLater
from rlmem.envs.base import VecEnv
from rlmem.envs.given import Batch, Given
from rlmem.errors import UsageError, positive
from rlmem.options import check_type
from rlmem.policies import describe_inputs
from rlmem.ranks import group
from rlmem.runs import callbacks as watchers
from rlmem.runs import (
    checkpoint,
    compiling,
    evaluate,
    folder,
    nonfinite,
    precision,
    ranks,
    system,
    task_splits,
    threads,
)
from rlmem.runs.agent import AgentSpec
from rlmem.runs.build import policy_arguments, resolve_device, training_of
from rlmem.runs.callbacks import Callback, Training
from rlmem.runs.evaluations import Evaluations
from rlmem.runs.guard import GuardedEnv
from rlmem.runs.log import RunLogger
from rlmem.runs.loggers import choice as loggers
from rlmem.runs.nonfinite import NotFinite
from rlmem.runs.result import Result
from rlmem.runs.resume import Start, leg_end, start, threads_of
from rlmem.runs.saver import Saver, interval
from rlmem.runs.session import Session, finish, iterate, next_command
from rlmem.runs.stop import Stop
from rlmem.runs.trust import is_inside


def run(cfg: DictConfig, unique: bool = False) -> float:
    """`train` for the command line; returns the mean return of the evaluation."""
    return train(cfg, unique).return_mean


def train(
    cfg: DictConfig,
    unique: bool = False,
    env: Given | None = None,
    eval_env: Given | None = None,
    callbacks: Any = (),
) -> Result:
    """Train or resume a run, then evaluate it.

    With `unique`, a run folder that is taken gets another name, written to `cfg.run_dir`. `env` and
    `eval_env` are environments that Python has given, in place of that of `cfg`. Raises
    `UsageError` for bad options, a loss that is not finite, or an error of the environment. A
    signal (Ctrl-C, SIGTERM, SIGHUP) saves a checkpoint, then raises `Interrupted`. Processes that
    torchrun has started train together.
    """
    _check_options(cfg)
    loggers.require(cfg, eval_env or env)
    watching = watchers.check(callbacks)
    if cfg.get("eval_every") is not None and isinstance(env, Batch) and eval_env is None:
        raise UsageError(
            "eval_every would disturb the batch that is trained on: give eval_env too, or env as "
            "a name, class or function"
        )
    if cfg.get("legs", 1) > 1 and isinstance(env, Batch):
        raise UsageError("legs need new environments: give env as a name, class or function")
    if nonfinite.check(cfg.get("on_nonfinite", "stop")) == "rollback" and isinstance(env, Batch):
        raise UsageError("a rollback needs new environments: give env as a name, class or function")
    precision.of(cfg)
    compiling.of(cfg)
    threads.check(cfg.threads)
    ranks.require(cfg, unique, env)
    group.join()
    with group.only_first_speaks():
        return _legs(cfg, unique, env, eval_env, watching)


def _legs(
    cfg: DictConfig,
    unique: bool,
    env: Given | None,
    eval_env: Given | None,
    watching: Sequence[Callback],
) -> Result:
    """Train all legs, and again after a rollback."""
    rollbacks = 0
    while True:
        group.barrier()  # the last checkpoint is written
        try:
            if (result := _leg(cfg, unique, env, eval_env, watching)) is not None:
                return result
        except NotFinite as failure:
            nonfinite.roll_back(cfg, failure, rollbacks)
            rollbacks += 1
        # The next leg begins as a resumed run does: a run killed in it repeats it exactly.
        cfg.resume, cfg.checkpoint = cfg.run_dir, "last"


def _leg(
    cfg: DictConfig,
    unique: bool,
    env: Given | None,
    eval_env: Given | None,
    watching: Sequence[Callback],
) -> Result | None:
    """Train one leg (by default, the whole run); evaluates at the end, None if there are more."""
    stop = Stop()
    legs = cfg.get("legs", 1)
    with stop.handlers(), ExitStack() as stack:
        saved = None
        if cfg.resume is not None:
            run = checkpoint.require_run(cfg.resume)
            if group.number() == 0:
                stack.enter_context(folder.lock(run))
            saved = _saved(cfg)
        threads.decide(cfg, env, None if saved is None else threads_of(saved))
        stack.enter_context(threads.in_use(cfg.threads))
        begun = start(cfg, saved, lambda env: GuardedEnv(env, stop), env, stack)
        _require_learning(cfg, begun.algo, begun.step)
        known = training_of(cfg) if env is None else None
        spec = AgentSpec.of(begun.env, cfg.algo.name, policy_arguments(cfg), known)
        group.barrier()  # all ranks have read the run
        if group.number() == 0:
            spec.write(_prepare_folder(cfg, unique, begun.step, begun.env, stack))
            system.note(Path(cfg.run_dir), begun.step, str(resolve_device(cfg.device)))
        cfg.run_dir = group.of_first(cfg.run_dir)
        run_dir = Path(cfg.run_dir)
        if begun.step == 0 or legs == 1:
            print(describe_inputs(begun.policy), file=sys.stderr)
        if begun.line is not None:
            print(begun.line, file=sys.stderr)
        session = _session(cfg, begun, run_dir, spec, eval_env or env, watching, stop, stack)
        training = session.training
        iterate(session, leg_end(begun.step, cfg.total_steps, legs))
        if training.step < cfg.total_steps and training.stopped is None:
            return None
        return finish(session, next_command(begun.env, cfg, run_dir))


def _saved(cfg: DictConfig) -> checkpoint.Checkpoint | None:
    """The checkpoint from which a run resumes; None if it was killed before its first one."""
    which = cfg.get("checkpoint", "last")
    if which == "last" and not checkpoint.steps(cfg.resume):
        print(f"{cfg.resume} has no checkpoint yet: it starts over", file=sys.stderr)
        replay = OmegaConf.select(cfg, "algo.replay.directory")
        if replay is not None and is_inside(replay, cfg.resume) and group.number() == 0:
            shutil.rmtree(replay, ignore_errors=True)
        return None
    saved = checkpoint.load(cfg.resume, which)
    if is_finished(cfg, saved.step):
        raise UsageError(
            f"{cfg.resume} is finished: it has trained {saved.step:,} steps, and total_steps is "
            f"{cfg.total_steps:,} already; give a larger total_steps"
        )
    return saved


def is_finished(cfg: DictConfig, step: int) -> bool:
    """Whether a run at `step` has nothing left to train or to evaluate."""
    return bool(step >= cfg.total_steps and evaluate.reported_step(cfg.resume) == step)


def _session(
    cfg: DictConfig,
    begun: Start,
    run_dir: Path,
    spec: AgentSpec,
    eval_env: Given | None,
    watching: Sequence[Callback],
    stop: Stop,
    stack: ExitStack,
) -> Session:
    """The session with its loggers, which `stack` closes."""
    device = resolve_device(cfg.device)
    training = Training(run_dir, begun.step, cfg.total_steps, begun.algo, spec, device)
    trained = evaluate.Trained(run_dir, cfg, begun.policy, begun.step, device, eval_env)
    evaluations = Evaluations(trained, begun.evaluated)
    saver = Saver(cfg, run_dir, begun)
    if group.number():
        return Session(cfg, training, saver, evaluations, None, [], stop)
    others = loggers.opened(trained, stack)
    logger = RunLogger(
        run_dir,
        cfg.total_steps,
        start_step=begun.step,
        logs=begun.logs,
        evaluations=evaluations.every is not None,
        progress=cfg.log.get("progress", True),
    )
    stack.enter_context(logger)
    training.paused = logger.paused
    saver.describe_logs = logger.describe
    return Session(cfg, training, saver, evaluations, logger, [logger, *others, *watching], stop)


def _prepare_folder(
    cfg: DictConfig, unique: bool, step: int, env: VecEnv, stack: ExitStack
) -> Path:
    """The locked run folder: a new one, or at a resume that of the run."""
    if cfg.resume is not None:
        run_dir = Path(cfg.run_dir)
        task_splits.write(run_dir, env)
        checkpoint.discard_after(run_dir, step)
        folder.update_config(cfg, step)
        return run_dir
    run_dir = folder.claim(cfg, unique)
    stack.enter_context(folder.lock(run_dir))
    task_splits.write(run_dir, env)
    return run_dir


def _check_options(cfg: DictConfig) -> None:
    positive("legs", cfg.get("legs", 1))
    for name in ("total_steps", "eval_episodes", "checkpoint_keep"):
        positive(name, cfg[name])
    for name in ("checkpoint_every", "eval_every"):
        interval(name, cfg.get(name), cfg.total_steps)
    folder.require_usable("run_dir", cfg.run_dir)
    for name in ("record", "algo.replay.directory"):
        if (place := OmegaConf.select(cfg, name)) is not None:
            check_type(name, place, str)
            folder.require_usable(name, place)


def _require_learning(cfg: DictConfig, algo: Algorithm, step: int) -> None:
    """Raise a `UsageError` if a run from `step` to `total_steps` would never learn."""
    total, iteration = cfg.total_steps, algo.steps_per_iteration
    if total < iteration:
        raise UsageError(
            f"total_steps ({total:,}) is less than one iteration of algo {cfg.algo.name}, "
            f"{iteration:,} steps: give a larger total_steps (num_envs and options of algo set the "
            "size of an iteration)"
        )
    rest = total - step
    if isinstance(algo, LearnsLater) and 0 < rest <= algo.steps_until_learning:
        first = step + algo.steps_until_learning
        raise UsageError(
            f"this run would never learn: it ends at total_steps={total:,}, and algo "
            f"{cfg.algo.name} does not learn in its first {first:,} steps "
            f"(algo.learning_starts={cfg.algo.get('learning_starts', 0):,}, and the replay needs "
            "steps for a row of each environment)"
        )
