"""Videos of evaluation episodes, recorded by Gymnasium's `RecordVideo`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from omegaconf import DictConfig

from rlmem.envs.given import Batch, Copies, Given
from rlmem.envs.gym_ids import registered
from rlmem.envs.seeding import eval_seeds
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError, need
from rlmem.runs import build, playing
from rlmem.runs.callbacks import Training
from rlmem.runs.evaluate import Trained
from rlmem.runs.evaluations import undisturbed
from rlmem.runs.guard import closing
from rlmem.runs.loggers.base import Logger
from rlmem.runs.saver import interval

OPTION, FOLDER, PREFIX = "log.video_every", "videos", "rl-video-step"
MODES = ("rgb_array", "rgb_array_list")
# The longest video: all frames of an episode are in memory until it is written.
MAX_FRAMES = 1_000


class VideoLogger(Logger):
    """Records the first evaluation episode every `log.video_every` steps, as mp4 in `videos`.

    The training does not notice: environment, memory and random numbers are others.
    """

    def __init__(self, trained: Trained) -> None:
        """`trained` is the run at its first step."""
        cfg = trained.cfg
        self._every = interval(OPTION, cfg.log.video_every, cfg.total_steps)
        self._trained = trained
        self._step = trained.step
        self._max_steps = min(cfg.get("eval_max_steps", playing.MAX_STEPS), MAX_FRAMES - 1)

    @staticmethod
    def require(cfg: DictConfig, given: Given | None) -> None:
        """Raise a `UsageError` if moviepy is missing, or the environment does not render."""
        interval(OPTION, cfg.log.video_every, cfg.total_steps)
        found = source(cfg, given)
        need("moviepy", f"{OPTION}={cfg.log.video_every}", "video")
        env = rendering(found, build.options(cfg.env).get("kwargs") or {})
        try:
            with warnings.catch_warnings(action="ignore"):
                env.reset(seed=0)
                frame: Any = env.render()
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{OPTION}: the environment cannot render: {type(error).__name__}: {reason}"
            ) from error
        finally:
            env.close()
        frame = frame[-1] if isinstance(frame, list) and frame else frame
        if not isinstance(frame, np.ndarray):
            given_kind = type(frame).__name__
            raise UsageError(f"{OPTION}: render() of the environment gives {given_kind}, no array")

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Record an episode if it is time."""
        if self._every is not None and training.step - self._step >= self._every:
            self._step = training.step
            with training.paused(), undisturbed(self._trained.policy):
                self._record(training)

    def _record(self, training: Training) -> None:
        recorded = _Recorded(
            source(self._trained.cfg, self._trained.given),
            str(training.run_dir / FOLDER),
            f"{PREFIX}-{training.step}",
        )

        cfg, copies = self._trained.cfg, Copies([recorded.make])
        env = build.make_env(cfg, 1, self._trained.device, copies)
        recorded.begun = True
        with closing(env), torch.no_grad():
            watch = playing.Watch(self._max_steps)
            playing.play_batch(self._trained.policy, env, eval_seeds(cfg.seed, 1), True, watch)


class _Recorded:
    """Makes environments whose first episode is recorded, if it has `begun` then."""

    def __init__(self, id: str | EnvFn, folder: str, name: str) -> None:
        self.id, self.folder, self.name = id, folder, name
        # Copies that are made to look at their spaces are not recorded.
        self.begun = False

    def make(self, **kwargs: Any) -> gym.Env:
        """The environment, with its own options `kwargs`."""
        env = rendering(self.id, kwargs)
        with warnings.catch_warnings(action="ignore"):  # there are other videos in the folder
            return gym.wrappers.RecordVideo(
                env,
                self.folder,
                episode_trigger=lambda episode: self.begun and episode == 0,
                name_prefix=self.name,
            )


def source(cfg: DictConfig, given: Given | None) -> str | EnvFn:
    """The id, class or function of the environment; a `UsageError` if it is not Gymnasium's."""
    if isinstance(given, Batch):
        raise UsageError(f"{OPTION} needs env (or eval_env) as a name, class or function")
    if given is not None:
        return given.env_fns[0]
    if cfg.env.name != "gym":
        raise UsageError(
            f"{OPTION}: {cfg.env.name} cannot render; videos are of Gymnasium's environments "
            "(env=ID, module:NAME or FILE.py:NAME)"
        )
    return str(cfg.env.id)


def rendering(id: str | EnvFn, kwargs: dict[str, Any]) -> gym.Env:
    """One copy of an environment that renders arrays.

    Its constructor takes `render_mode`, or sets it. Raises `UsageError` otherwise.
    """
    make: Callable[[dict[str, Any]], EnvFn] = partial(registered, id, None)
    with warnings.catch_warnings(action="ignore"):  # of modes that are not in its metadata
        try:
            env = make({**kwargs, "render_mode": MODES[0]})()
        except UsageError:
            env = make(kwargs)()
    if env.render_mode not in MODES:
        env.close()
        raise UsageError(
            f"{OPTION}: the environment cannot render: its render_mode is {env.render_mode!r}, and "
            f"render_mode={MODES[0]!r} should be an option of its constructor"
        )
    return env
