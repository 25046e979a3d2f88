"""`rlmem train`: trains an agent and writes its run folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlmem.algos import Algorithm, LearnsLater, NonFiniteLoss
from rlmem.envs.base import VecEnv
from rlmem.envs.given import Batch, Given
from rlmem.envs.gym_ids import OBJECT
from rlmem.envs.meta.splits import TRAIN, splits_of
from rlmem.errors import UsageError, positive
from rlmem.policies import describe_inputs
from rlmem.runs import callbacks as watchers
from rlmem.runs import checkpoint, evaluate, folder, task_splits
from rlmem.runs.agent import Agent, AgentSpec
from rlmem.runs.build import build, options, policy_arguments, resolve_device
from rlmem.runs.callbacks import Callback, Training
from rlmem.runs.evaluations import Evaluations
from rlmem.runs.guard import EnvironmentFailure, GuardedEnv, closing, report
from rlmem.runs.log import RunLogger
from rlmem.runs.progress import Progress
from rlmem.runs.result import Result
from rlmem.runs.saver import Saver, interval, last_checkpoint
from rlmem.runs.stop import Interrupted, LeftIteration, Stop


@dataclass
class Session:
    """Everything that takes part in a training."""

    cfg: DictConfig
    training: Training
    saver: Saver
    evaluations: Evaluations
    logger: RunLogger
    callbacks: Sequence[Callback]
    stop: Stop


def run(cfg: DictConfig, unique: bool = False) -> float:
    """`train` for the command line; returns the mean return of the evaluation."""
    return train(cfg, unique).return_mean


def train(
    cfg: DictConfig,
    unique: bool = False,
    env: Given | None = None,
    eval_env: Given | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train or resume a run, then evaluate it.

    With `unique`, a run folder that is taken gets another name, written to `cfg.run_dir`. `env` and
    `eval_env` are environments that Python has given, in place of that of `cfg`. Raises
    `UsageError` for bad options, a loss that is not finite, or an error of the environment. A
    signal (Ctrl-C, SIGTERM, SIGHUP) saves a checkpoint, then raises `Interrupted`.
    """
    _check_options(cfg)
    watching = watchers.check(callbacks)
    if cfg.get("eval_every") is not None and isinstance(env, Batch) and eval_env is None:
        raise UsageError(
            "eval_every would disturb the batch that is trained on: give eval_env too, or env as "
            "a name, class or function"
        )
    stop = Stop()
    with stop.handlers(), ExitStack() as stack:
        if cfg.threads is not None:
            stack.enter_context(_threads(positive("threads", cfg.threads)))
        saved = None
        if cfg.resume is not None:
            stack.enter_context(folder.lock(checkpoint.require_run(cfg.resume)))
            saved = checkpoint.load(cfg.resume)
            _require_rest(cfg, saved.step)
        step = saved.step if saved else 0
        used = saved.seeds_used(cfg.num_envs) if saved else 0
        made, policy, algo = build(cfg, step, lambda env: GuardedEnv(env, stop), used, env)
        stack.enter_context(closing(made))
        if saved:
            saved.load_weights(policy)
            saved.load_trainer(algo)
            checkpoint.set_rng_state(saved.trainer["rng"])
        _require_learning(cfg, algo, step)
        spec = AgentSpec.of(made, cfg.algo.name, policy_arguments(cfg))
        run_dir = _prepare_folder(cfg, unique, step, made, stack)
        spec.write(run_dir)
        print(describe_inputs(policy), file=sys.stderr)
        device = resolve_device(cfg.device)
        trained = evaluate.Trained(run_dir, cfg, policy, step, device, eval_env or env)
        evaluations = Evaluations(trained)
        periodic = evaluations.every is not None
        logger = stack.enter_context(
            RunLogger(
                run_dir,
                cfg.total_steps,
                start_step=step,
                evaluations=periodic,
                **options(cfg.log),
            )
        )
        saver = Saver(cfg, run_dir, algo, step, used + cfg.num_envs)
        training = Training(run_dir, step, cfg.total_steps, algo, spec, device)
        all_callbacks = [logger, *watching]
        session = Session(cfg, training, saver, evaluations, logger, all_callbacks, stop)
        _train(session)
        return _finish(session, _following(made, cfg, run_dir))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    for name in ("total_steps", "eval_episodes", "checkpoint_keep"):
        positive(name, cfg[name])
    for name in ("checkpoint_every", "eval_every"):
        interval(name, cfg.get(name), cfg.total_steps)
    folder.require_usable("run_dir", cfg.run_dir)
    for name in ("record", "algo.replay.directory"):
        if (place := OmegaConf.select(cfg, name)) is not None:
            folder.require_usable(name, place)


def _require_rest(cfg: DictConfig, step: int) -> None:
    """Raise a `UsageError` if a run at `step` has nothing left to train."""
    if step >= cfg.total_steps:
        raise UsageError(
            f"{cfg.resume} is finished: it has trained {step:,} steps, and total_steps is "
            f"{cfg.total_steps:,} already; give a larger total_steps"
        )


def _require_learning(cfg: DictConfig, algo: Algorithm, step: int) -> None:
    """Raise a `UsageError` if a run from `step` to `total_steps` would never learn."""
    total, iteration = cfg.total_steps, algo.steps_per_iteration
    if total < iteration:
        raise UsageError(
            f"total_steps ({total:,}) is less than one iteration of algo {cfg.algo.name}, "
            f"{iteration:,} steps: give a larger total_steps (num_envs and options of algo set the "
            "size of an iteration)"
        )
    if isinstance(algo, LearnsLater) and total - step <= algo.steps_until_learning:
        first = step + algo.steps_until_learning
        raise UsageError(
            f"this run would never learn: it ends at total_steps={total:,}, and algo "
            f"{cfg.algo.name} does not learn in its first {first:,} steps "
            f"(algo.learning_starts={cfg.algo.get('learning_starts', 0):,}, and the replay needs "
            "steps for a row of each environment)"
        )


def _train(session: Session) -> None:
    """Iterate until `total_steps` or a stop; saves checkpoints on the way and at the end."""
    cfg, training, saver, stop = session.cfg, session.training, session.saver, session.stop
    algo, run_dir = training.algo, training.run_dir
    with stop.finishing_iterations():
        while training.step < cfg.total_steps and stop.requested is None and not training.stopped:
            try:
                metrics = algo.iterate(training.step / cfg.total_steps)
                training.step += algo.steps_per_iteration
                _after_iteration(session, metrics)
            except LeftIteration:
                stop.left()
                break
            except NonFiniteLoss as error:
                raise UsageError(
                    f"training stopped at step {training.step:,}: {error}; "
                    + last_checkpoint(run_dir)
                    + (" (a smaller algo.learning_rate may help)" if error.finite_inputs else "")
                ) from error
            except UsageError as error:
                # A signal to a whole group of processes also ends those of the environment.
                if stop.requested is None:
                    raise _save_and_report(error, saver, training.step) from error
                break
        _save(session)
    if stop.requested is not None:
        raise Interrupted(stop.requested)
    later = isinstance(algo, LearnsLater) and algo.steps_until_learning > 0
    if later and training.stopped is None:
        raise UsageError(
            f"algo {cfg.algo.name} never learned in {training.step:,} steps: its batches need an "
            f"episode that has ended and fits into the replay; resume={run_dir} goes on"
        )


def _after_iteration(session: Session, metrics: dict[str, float]) -> None:
    """Log and save, and evaluate if it is time."""
    training, saver, evaluations = session.training, session.saver, session.evaluations
    if evaluations.every is None:
        saver.score = metrics.get("episode_return", saver.score)
    _notify(session, lambda callback: callback.on_iteration(training, metrics))
    if evaluations.due(training.step):
        with session.logger.paused():
            result = evaluations.run(training.step, session.stop)
        saver.score = result["return_mean"]
        _notify(session, lambda callback: callback.on_evaluation(training, result))
    if path := saver.after_iteration(training.step):
        _notify(session, lambda callback: callback.on_checkpoint(training, path))


def _notify(session: Session, call: Callable[[Callback], None]) -> None:
    """Call all callbacks; an exception of one is raised after a checkpoint."""
    for callback in session.callbacks:
        try:
            call(callback)
        except Exception:
            session.saver.save(session.training.step)
            raise


def _save(session: Session) -> None:
    training = session.training
    if path := session.saver.save(training.step):
        _notify(session, lambda callback: callback.on_checkpoint(training, path))


def _save_and_report(error: UsageError, saver: Saver, step: int) -> UsageError:
    """Save the last complete iteration, at `step`; returns the error with the saved place.

    The agent acts between its updates, so the weights are still those after that iteration.
    """
    saver.save(step)
    context = f"at step {step:,}; {last_checkpoint(saver.run_dir)}"
    if isinstance(error, EnvironmentFailure):
        return report(error, saver.run_dir, context)
    return UsageError(f"{error}; {context}")


def _finish(session: Session, following: str) -> Result:
    """Evaluate the trained policy and print the last line, which ends with `following`."""
    training, evaluations = session.training, session.evaluations
    session.logger.end_progress()
    result = evaluations.result if evaluations.step == training.step else None
    if result is None:
        shown = session.cfg.log.get("progress", True)
        with Progress("episodes", evaluations.episodes, shown=shown) as progress:
            try:
                result = evaluations.run(training.step, progress=progress)
            except EnvironmentFailure as failure:
                context = f"in the evaluation; {last_checkpoint(training.run_dir)}"
                raise report(failure, training.run_dir, context) from failure
        evaluations.write()
        found = result
        _notify(session, lambda callback: callback.on_evaluation(training, found))
    else:
        evaluations.write()
    stopped = "" if training.stopped is None else f", stopped: {training.stopped},"
    session.logger.finish(_outcome(result, training.spec) + stopped, following)
    agent = Agent(training.algo.policy, training.spec, training.device)
    return Result(agent, training.run_dir, training.step, result, training.stopped)


def _outcome(result: dict[str, Any], spec: AgentSpec) -> str:
    """The return of an evaluation and its meaning."""
    score = result.get("memory_score")
    trial = (spec.history or {}).get("episodes", 1)
    unit = "episodes" if trial == 1 else f"trials of {trial} episodes"
    meaning = ""
    if score is not None:
        meaning = f" (memory score {score:.2f}: 0 = no memory, 1 = optimum)"
    cut = f" ({result['unfinished']} unfinished)" if result["unfinished"] else ""
    return f"return {result['return_mean']:.3f}{meaning} over {result['episodes']} {unit}{cut}"


def _following(env: VecEnv, cfg: DictConfig, run_dir: Path) -> str:
    """A command for the trained agent."""
    run = shlex.quote(str(run_dir))
    splits = splits_of(env)
    if heldout := [name for name in (splits.names() if splits else []) if name != TRAIN]:
        return f"rlmem eval run={run} split={heldout[0]}"
    if str(cfg.env.get("id", "")).startswith(OBJECT):
        return f"rlmem.load({str(run_dir)!r})"
    return f"rlmem play run={run}"
