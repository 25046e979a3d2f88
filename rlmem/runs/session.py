"""A training in progress: iterations, checkpoints, evaluations and callbacks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlmem.algos import LearnsLater, NonFiniteLoss
from rlmem.envs.base import VecEnv
from rlmem.envs.gym_ids import OBJECT
from rlmem.envs.meta.splits import TRAIN, splits_of
from rlmem.errors import UsageError
from rlmem.ranks import group, reduce
from rlmem.runs import precision, trust
from rlmem.runs.agent import Agent, AgentSpec
from rlmem.runs.build import plain
from rlmem.runs.callbacks import Callback, Training
from rlmem.runs.evaluations import Evaluations
from rlmem.runs.guard import EnvironmentFailure, report
from rlmem.runs.log import RunLogger
from rlmem.runs.nonfinite import NumberGuard
from rlmem.runs.progress import Progress
from rlmem.runs.result import Result
from rlmem.runs.saver import Saver, last_checkpoint
from rlmem.runs.stop import Interrupted, LeftIteration, Stop


@dataclass
class Session:
    """Everything that takes part in a training; loggers and callbacks on rank 0 alone."""

    cfg: DictConfig
    training: Training
    saver: Saver
    evaluations: Evaluations
    logger: RunLogger | None
    callbacks: Sequence[Callback]
    stop: Stop


def iterate(session: Session, end: int) -> None:
    """Iterate until step `end` or a stop; saves checkpoints on the way and at the end."""
    cfg, training, saver, stop = session.cfg, session.training, session.saver, session.stop
    algo, run_dir = training.algo, training.run_dir
    guard = NumberGuard(cfg.get("on_nonfinite", "stop"))
    with stop.finishing_iterations():
        while training.step < end and not _stops(session):
            try:
                _evaluate(session)  # a stop may have interrupted the last one
                saver.whole = False
                with precision.context(precision.of(cfg), training.device):
                    metrics = algo.iterate(training.step / cfg.total_steps)
                saver.whole = True
                metrics = reduce.mean_metrics(metrics)
                guard.check(algo, metrics)
                if saver.due(training.step + algo.steps_per_iteration):
                    guard.check_weights(algo)
                training.step += algo.steps_per_iteration
                _after_iteration(session, metrics)
            except LeftIteration:
                stop.left()
                break
            except NonFiniteLoss as error:
                guard.handle(error, training)
                saver.whole = True
                training.step += algo.steps_per_iteration
            except UsageError as error:
                if group.several():  # the others are somewhere else: nothing can be saved
                    raise _report(error, saver, training.step) from error
                # A signal to a whole group of processes also ends those of the environment.
                if stop.requested is None:
                    raise _save_and_report(error, saver, training.step) from error
                break
        try:
            guard.check_weights(algo)
        except NonFiniteLoss as error:
            guard.handle(error, training)
        _save(session)
    if (requested := stop.agree()) is not None:
        raise Interrupted(requested)
    later = isinstance(algo, LearnsLater) and algo.steps_until_learning > 0
    if later and training.stopped is None and training.step >= cfg.total_steps:
        raise UsageError(
            f"algo {cfg.algo.name} never learned in {training.step:,} steps: its batches need an "
            f"episode that has ended and fits into the replay; resume={run_dir} goes on"
        )


def _stops(session: Session) -> bool:
    """Whether a signal, or a callback of rank 0, ends the training."""
    training, stop = session.training, session.stop
    asked = stop.requested is not None or bool(training.stopped)
    if not group.several():
        return asked
    if not reduce.highest_number(int(asked)):
        return False
    training.stopped = group.of_first(training.stopped)
    stop.agree()
    return True


def _after_iteration(session: Session, metrics: dict[str, float]) -> None:
    """Log and save, and evaluate if it is time."""
    training, saver, evaluations = session.training, session.saver, session.evaluations
    if evaluations.every is None:
        saver.score = metrics.get("episode_return", saver.score)
    _notify(session, lambda callback: callback.on_iteration(training, metrics))
    _evaluate(session)
    if path := saver.after_iteration(training.step):
        _notify(session, lambda callback: callback.on_checkpoint(training, path))


def _evaluate(session: Session) -> None:
    """Evaluate if it is time, on rank 0."""
    training, saver, evaluations = session.training, session.saver, session.evaluations
    if session.logger is None or not evaluations.due(training.step):
        return
    try:
        with session.logger.paused():
            result = evaluations.run(training.step, session.stop)
    except LeftIteration:
        if group.several():  # the ranks stop together, after the next iteration
            return
        raise
    saver.score, saver.evaluated = result["return_mean"], training.step
    _notify(session, lambda callback: callback.on_evaluation(training, result))


def _notify(session: Session, call: Callable[[Callback], None]) -> None:
    """Call all callbacks; an exception of one is raised after a checkpoint."""
    for callback in session.callbacks:
        try:
            call(callback)
        except Exception:
            if not group.several():
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
    return _report(error, saver, step)


def _report(error: UsageError, saver: Saver, step: int) -> UsageError:
    """The error with the last checkpoint's place."""
    context = f"at step {step:,}; {last_checkpoint(saver.run_dir)}"
    if isinstance(error, EnvironmentFailure):
        return report(error, saver.run_dir, context)
    return UsageError(f"{error}; {context}")


def finish(session: Session, following: str) -> Result:
    """Evaluate the trained policy and print the last line, which ends with `following`.

    Rank 0 does; the others get its result.
    """
    training = session.training
    own = session.logger and _last_evaluation(session, session.logger, following)
    result: dict[str, Any] = group.of_first(own)
    agent = Agent(training.algo.policy, training.spec, training.device)
    return Result(agent, training.run_dir, training.step, result, training.stopped)


def _last_evaluation(session: Session, logger: RunLogger, following: str) -> dict[str, Any]:
    training, evaluations = session.training, session.evaluations
    logger.end_progress()
    # A resumed run may have logged the evaluation of this step, without its result.
    result, logged = evaluations.result, evaluations.step == training.step
    if result is None or not logged:
        shown = session.cfg.log.get("progress", True)
        with Progress("episodes", evaluations.episodes, shown=shown) as progress:
            try:
                result = evaluations.run(training.step, progress=progress)
            except EnvironmentFailure as failure:
                context = f"in the evaluation; {last_checkpoint(training.run_dir)}"
                raise report(failure, training.run_dir, context) from failure
        evaluations.write()
        found = result
        if not logged:
            _notify(session, lambda callback: callback.on_evaluation(training, found))
    else:
        evaluations.write()
    if (cost := session.saver.cost) is not None:
        print(cost, file=sys.stderr)
    stopped = "" if training.stopped is None else f", stopped: {training.stopped},"
    logger.finish(_outcome(result, training.spec) + stopped, following)
    return result


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


def next_command(env: VecEnv, cfg: DictConfig, run_dir: Path) -> str:
    """A command for the trained agent."""
    run = shlex.quote(str(run_dir)) + trust.option(plain(cfg))
    splits = splits_of(env)
    if heldout := [name for name in (splits.names() if splits else []) if name != TRAIN]:
        return f"rlmem eval run={run} split={heldout[0]}"
    if str(cfg.env.get("id", "")).startswith(OBJECT):
        return f"rlmem.load({str(run_dir)!r})"
    return f"rlmem play run={run}"
