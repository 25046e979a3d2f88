"""`rlmem train`: trains an agent and writes its run folder."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from rlmem.algos import Algorithm, LearnsLater, NonFiniteLoss
from rlmem.errors import UsageError, positive
from rlmem.policies import Policy, describe_inputs
from rlmem.runs import checkpoint, evaluate, folder, task_splits
from rlmem.runs.agent import AgentSpec
from rlmem.runs.build import build, options, policy_arguments, resolve_device
from rlmem.runs.guard import EnvironmentFailure, GuardedEnv, closing, report
from rlmem.runs.log import RunLogger
from rlmem.runs.progress import Progress
from rlmem.runs.saver import Saver, checkpoint_steps, last_checkpoint
from rlmem.runs.stop import Interrupted, LeftIteration, Stop


def run(cfg: DictConfig, unique: bool = False) -> float:
    """Train or resume a run, then evaluate it; returns the mean return of the evaluation.

    With `unique`, a run folder that is taken gets another name, written to `cfg.run_dir`. Raises
    `UsageError` for bad options, a loss that is not finite, or an error of the environment. A
    signal (Ctrl-C, SIGTERM, SIGHUP) saves a checkpoint, then raises `Interrupted`.
    """
    _check_options(cfg)
    if cfg.threads is not None:
        torch.set_num_threads(positive("threads", cfg.threads))
    stop = Stop()
    with stop.handlers(), ExitStack() as stack:
        saved = None
        if cfg.resume is not None:
            stack.enter_context(folder.lock(checkpoint.require_run(cfg.resume)))
            saved = checkpoint.load(cfg.resume)
            _require_rest(cfg, saved.step)
        start_step = saved.step if saved else 0
        seeds_used = saved.seeds_used(cfg.num_envs) if saved else 0
        env, policy, algo = build(cfg, start_step, lambda env: GuardedEnv(env, stop), seeds_used)
        stack.enter_context(closing(env))
        if saved:
            saved.load_weights(policy)
            saved.load_trainer(algo)
            checkpoint.set_rng_state(saved.trainer["rng"])
        _require_learning(cfg, algo, start_step)
        spec = AgentSpec.of(env, cfg.algo.name, policy_arguments(cfg))
        if saved:
            run_dir = Path(cfg.run_dir)
            task_splits.write(run_dir, env)
            checkpoint.discard_after(run_dir, start_step)
            folder.update_config(cfg, start_step)
        else:
            run_dir = folder.claim(cfg, unique)
            stack.enter_context(folder.lock(run_dir))
            task_splits.write(run_dir, env)
        spec.write(run_dir)
        print(describe_inputs(policy), file=sys.stderr)
        logger = stack.enter_context(
            RunLogger(run_dir, cfg.total_steps, start_step=start_step, **options(cfg.log))
        )
        saver = Saver(cfg, run_dir, algo, start_step, seeds_used + cfg.num_envs)
        _train(cfg, saver, algo, logger, stop)
        return _evaluate(cfg, run_dir, policy, logger)


def _check_options(cfg: DictConfig) -> None:
    for name in ("total_steps", "eval_episodes", "checkpoint_keep"):
        positive(name, cfg[name])
    checkpoint_steps(cfg.checkpoint_every, cfg.total_steps)
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


def _train(cfg: DictConfig, saver: Saver, algo: Algorithm, logger: RunLogger, stop: Stop) -> None:
    """Iterate until `total_steps` or a signal; saves checkpoints on the way and at the end."""
    run_dir = saver.run_dir
    with stop.finishing_iterations():
        while logger.step < cfg.total_steps and stop.requested is None:
            try:
                metrics = algo.iterate(logger.step / cfg.total_steps)
            except LeftIteration:
                stop.left()
                break
            except NonFiniteLoss as error:
                raise UsageError(
                    f"training stopped at step {logger.step:,}: {error}; {last_checkpoint(run_dir)}"
                    + (" (a smaller algo.learning_rate may help)" if error.finite_inputs else "")
                ) from error
            except UsageError as error:
                # A signal to a whole group of processes also ends those of the environment.
                if stop.requested is None:
                    raise _save_and_report(error, saver, logger.step) from error
                break
            logger.log(logger.step + algo.steps_per_iteration, metrics)
            saver.score = metrics.get("episode_return", saver.score)
            saver.after_iteration(logger.step)
        saver.save(logger.step)
    if stop.requested is not None:
        raise Interrupted(stop.requested)
    if isinstance(algo, LearnsLater) and algo.steps_until_learning > 0:
        raise UsageError(
            f"algo {cfg.algo.name} never learned in {logger.step:,} steps: its batches need an "
            f"episode that has ended and fits into the replay; resume={run_dir} goes on"
        )


def _save_and_report(error: UsageError, saver: Saver, step: int) -> UsageError:
    """Save the last complete iteration, at `step`; returns the error with the saved place.

    The agent acts between its updates, so the weights are still those after that iteration.
    """
    saver.save(step)
    context = f"at step {step:,}; {last_checkpoint(saver.run_dir)}"
    if isinstance(error, EnvironmentFailure):
        return report(error, saver.run_dir, context)
    return UsageError(f"{error}; {context}")


def _evaluate(cfg: DictConfig, run_dir: Path, policy: Policy, logger: RunLogger) -> float:
    """Evaluate the trained policy and print the last line; returns the mean return."""
    logger.close()
    device = resolve_device(cfg.device)
    trained = evaluate.Trained(run_dir, cfg, policy, logger.step, device)
    settings = {"step": logger.step, "seed": cfg.seed, "deterministic": True}
    shown = cfg.log.get("progress", True)
    with Progress("episodes", cfg.eval_episodes, shown=shown) as progress:
        watch = evaluate.Watch(cfg.get("eval_max_steps", evaluate.MAX_STEPS), progress)
        try:
            result = evaluate.evaluate(trained, settings, cfg.eval_episodes, watch)
        except EnvironmentFailure as failure:
            context = f"in the evaluation; {last_checkpoint(run_dir)}"
            raise report(failure, run_dir, context) from failure
    mean = float(result["return_mean"])
    cut = f" ({watch.unfinished} unfinished)" if watch.unfinished else ""
    logger.finish(f"greedy return {mean:.3f} over {cfg.eval_episodes} episodes{cut}")
    return mean
