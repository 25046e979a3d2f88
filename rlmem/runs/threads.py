"""`threads=auto`: the number of CPU threads with which a training is fastest here, by a probe."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlmem import algos
from rlmem.algos import LearnsLater
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.given import Batch, Given
from rlmem.errors import UsageError, positive
from rlmem.options import check_range
from rlmem.ranks import group
from rlmem.runs import build, precision
from rlmem.runs.guard import environment_errors

AUTO = "auto"
# Seconds of one measurement, which is an iteration or less, or some of them; and of the first steps
# of a replay.
SHORTEST, LONGEST, FILL = 0.1, 0.25, 0.5
# Steps in a row of the first, short iterations.
FEWEST_STEPS = 16
# More threads must be so much faster: their speed depends more on other programs.
LEAST_GAIN = 1.1
EPISODE = 20  # steps of an episode in the probe


class Late(Exception):
    """A measurement has taken longer than the best one."""


def check(value: Any) -> None:
    """Raise a `UsageError` unless `value` is a number of threads, `auto` or None (all)."""
    if isinstance(value, str) and value != AUTO:
        raise UsageError(f"threads must be an integer, auto or null, not {value!r}")
    if value is not None and value != AUTO:
        check_range("threads", value)
        positive("threads", value)


def decide(cfg: DictConfig, env: Given | None, saved: int | None = None) -> None:
    """Replace `auto` in `cfg` by a number, and print it.

    That is the number of the checkpoint, `saved`, so that a run goes on exactly where it was, else
    the result of the probe. Ranks have one thread each, and so has a training on a GPU.
    """
    if cfg.threads != AUTO:
        return
    if saved is not None:
        cfg.threads, reason = saved, "as before"
    elif group.several():
        cfg.threads, reason = 1, "one for each rank"
    elif build.resolve_device(cfg.device).type != "cpu":
        cfg.threads, reason = 1, "training is on the GPU"
    else:
        cfg.threads, reason = fastest(cfg, env)
    print(f"threads={cfg.threads}: {reason}", file=sys.stderr)


@contextmanager
def in_use(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads in the block; None leaves their number as it is."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(positive("threads", count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest(cfg: DictConfig, env: Given | None) -> tuple[int, str]:
    """The number of threads with the fastest updates, and the reason in words.

    1, 2, 4, ... up to all cores are measured, as long as each is faster than the one before. The
    policy and the algorithm are those of `cfg`; the environments stand still.
    """
    cores, begun = len(os.sched_getaffinity(0)), time.monotonic()
    if cores == 1:
        return 1, "there is one core"
    best = 1
    with in_use(1):
        probe = Probe(cfg, env)
        found = {1: probe.seconds()}
        for count in [2**i for i in range(1, 11) if 2**i < cores] + [cores]:
            found[count] = probe.compared(count, best, found)
            if found[count] * LEAST_GAIN > found[best]:
                break
            best = count
    spent = time.monotonic() - begun
    others = ", ".join(
        f"{count} {found[1] / seconds:.2f}" if seconds < float("inf") else f"{count} slower"
        for count, seconds in found.items()
    )
    return best, f"fastest in a probe of {spent:.1f} s (speeds: {others})"


class Probe:
    """An algorithm and policy as configured, without their environments, for measurements."""

    def __init__(self, cfg: DictConfig, env: Given | None) -> None:
        self.device = torch.device("cpu")
        cfg = copy.deepcopy(cfg)
        OmegaConf.set_struct(cfg, False)
        for key in ("algo.learning_starts", "algo.replay.directory", "record"):
            if OmegaConf.select(cfg, key) is not None:
                OmegaConf.update(cfg, key, 0 if key == "algo.learning_starts" else None)
        self.cfg, self.still, self.repeats = cfg, _still(cfg, env), 1
        # An iteration of shorter rows is of the same kind: a slow memory is measured with these.
        if "num_updates" in cfg.algo:
            cfg.algo.num_updates = 1
        wanted = steps = cfg.algo.get("num_steps", 1)
        if steps > FEWEST_STEPS:
            cfg.algo.num_steps = steps = FEWEST_STEPS
        self.make()
        # The first one also imports packages and allocates memory.
        if self.seconds() > 2 * LONGEST and "num_epochs" in cfg.algo:
            cfg.algo.num_epochs = 1
            self.make()
        while (spent := self.seconds()) < LONGEST / 2 and steps < wanted:
            cfg.algo.num_steps = steps = min(2 * steps, wanted)
            self.make()
        self.repeats = max(1, round(SHORTEST / spent))

    def make(self) -> None:
        """Make a new algorithm and policy, with steps in its replay if it has one."""
        cfg, still = self.cfg, self.still
        policy = build.make_policy(cfg, still)
        seeds = list(range(still.num_envs))
        given = build.options(cfg.algo)
        self.algo = algos.make(cfg.algo.name, env=still, policy=policy, seed=seeds, **given)
        begun = time.monotonic()
        while isinstance(self.algo, LearnsLater) and self.algo.steps_until_learning > 0:
            self.algo.iterate(0.0)
            if time.monotonic() - begun > FILL:
                break

    def seconds(self, most: float = float("inf")) -> float:
        """The time of an iteration, or of some; raises `Late` when it is over `most`.

        The time is looked at in each step and at each scan, so that a collapse ends early.
        """
        begun = time.monotonic()
        self.still.deadline = begun + most
        core: Any = self.algo.policy.core
        scan = core.scan

        def watched(*arguments: Any) -> Any:
            self.still.look()
            return scan(*arguments)

        core.scan = watched
        try:
            with precision.context(precision.of(self.cfg), self.device):
                for _ in range(self.repeats):
                    self.algo.iterate(0.0)
        finally:
            del core.scan
        return time.monotonic() - begun

    def compared(self, count: int, best: int, found: dict[int, float]) -> float:
        """The time with `count` threads: the shorter of two; infinite if it is over the best one's.

        Measurements alternate, because other programs change the speed of all.
        """
        times = [float("inf")]
        for _ in range(2):
            try:
                with in_use(count):
                    times.append(self.seconds(2 * found[best]))
            except Late:
                return float("inf")
            with in_use(best):
                found[best] = min(found[best], self.seconds())
        return min(times)


class StillEnv:
    """Environments with one observation, which end every `EPISODE` steps."""

    def __init__(self, env: VecEnv, num_envs: int) -> None:
        self.num_envs, self.device = num_envs, env.device
        self.observation_space, self.action_space = env.observation_space, env.action_space
        with environment_errors():
            first = env.reset(0)
        self.obs: Tensors = {
            key: leaf[:1].expand(num_envs, *leaf.shape[1:]).clone() for key, leaf in first.items()
        }
        self.time, self.deadline = 0, float("inf")

    def look(self) -> None:
        """Raise `Late` after the deadline."""
        if time.monotonic() > self.deadline:
            raise Late

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """The observation."""
        return self.obs

    def step(self, action: Tensors) -> Transition:
        """The same observation again."""
        self.look()
        self.time += 1
        zeros = torch.zeros(self.num_envs, device=self.device)
        never = zeros.bool()
        over = never if self.time % EPISODE else ~never
        return Transition(self.obs, zeros, over, never, self.obs, over)

    def close(self) -> None:
        """There is nothing to free."""


def _still(cfg: DictConfig, env: Given | None) -> StillEnv:
    """The environments of the probe, with spaces and observations of the real ones."""
    build.seed_everything(cfg.seed)
    num_envs = positive("num_envs", cfg.num_envs)
    made = build.make_env(cfg, 1, torch.device("cpu"), env)
    still = StillEnv(made, num_envs)
    if not isinstance(env, Batch):
        made.close()
    return still
