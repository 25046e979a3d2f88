"""Replay: what was played, kept on tapes, and rows of it drawn to learn from.

Rows are cut out of the tapes in one of three ways (`batching`):

- `segments` of burn_in + length steps from every `stride`-th entry on, wherever that is in an
  episode, drawn by priority. With `stored_state` they begin with the memory that the agent had
  there when it played, else with an empty one (Kapturowski et al. 2019, section 3).
- `tape`: whole episodes drawn at random, end to end, the last one cut where the row is full. No
  padding, no burn-in, no memory but the one that the row itself makes (Morad et al. 2024, arXiv
  2402.09900, "tape-based batching").
- `trajectory`: from the start of an episode (or trial), whatever its environment did next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from rlmem.algos.episodes import EpisodeSums, summary
from rlmem.algos.replay_priorities import Priorities
from rlmem.algos.replay_states import States
from rlmem.algos.replay_tapes import (
    LAST,
    START,
    TERMINATED,
    TRUNCATED,
    Played,
    Staged,
    Tapes,
    named,
)
from rlmem.algos.replay_units import Episodes, Segments, end_to_end, learnable
from rlmem.algos.sequences import Sequences
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.errors import UsageError, at_least, positive, share, unknown
from rlmem.policies import Policy

BATCHINGS = ("segments", "tape", "trajectory")
# Steps that are kept back and written together: a write costs as much as some of them.
CHUNK = 32

# Values with their sources: rlmem/configs/algo/r2d2.yaml.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "capacity": 100_000,
        "directory": None,
        "batching": "segments",
        "batch_size": 32,
        "length": 40,
        "burn_in": 20,
        "stride": 20,
        "stored_state": True,
        "alpha": 0.9,
        "beta": 0.6,
        "anneal_beta": False,
    }
)


class Replay:
    """Tapes of `capacity` entries in all, of which `sample` draws `batch_size` rows.

    `directory` is a folder for files that are mapped into memory, which may be larger than it.
    `alpha` and `beta` are those of `replay_priorities`; `anneal_beta` takes beta to 1. They, the
    burn-in, `stride` and `stored_state` are of segments only. Options that are not given are those
    of `DEFAULTS`. Raises `UsageError` where one is unknown or out of its range.
    """

    def __init__(self, env: VecEnv, policy: Policy, **given: Any) -> None:
        for name in given:
            if name not in DEFAULTS:
                raise unknown("option of replay", name, DEFAULTS)
        options = {**DEFAULTS, **given}
        _check(options, env.num_envs)
        self.policy, self.device = policy, env.device
        self.batching: str = options["batching"]
        self.batch_size: int = options["batch_size"]
        self.burn_in: int = options["burn_in"] if self.batching == "segments" else 0
        self.steps: int = self.burn_in + options["length"]
        self.beta: float = options["beta"]
        self.anneal_beta: bool = options["anneal_beta"]
        stride: int = options["stride"]
        slots = options["capacity"] // env.num_envs // stride * stride
        self.chunk = min(CHUNK, slots // 2)
        directory = None if options["directory"] is None else Path(options["directory"])
        self.tapes = Tapes(env.num_envs, slots, directory)
        self.keys = tuple(env.observation_space), tuple(env.action_space)
        self.staged: list[Staged] = []
        self.latest: dict[str, Tensor] = {}
        self.sums = EpisodeSums(env.num_envs, torch.device("cpu"))
        self.ended: list[tuple[Tensor, Tensor]] = []
        self.episodes = Episodes(env.num_envs)
        self.segments = Segments(env.num_envs, slots, self.steps + 1, stride)
        number = env.num_envs * self.segments.per_env
        segmented = self.batching == "segments"
        self.states = States(number, stride) if segmented and options["stored_state"] else None
        self.priorities = (
            Priorities(number, options["alpha"]) if segmented and options["alpha"] else None
        )

    def add(
        self, obs: Tensors, start: Tensor, state: Any, action: Tensors, step: Transition
    ) -> None:
        """One step of all environments: what was seen, the memory before it, what came of it.

        The tensors are read later: nothing may be written to them.
        """
        self.staged.append(Staged(obs, start, state if self.states else None, action, step))
        if len(self.staged) >= self.chunk:
            self.flush()

    def flush(self) -> None:
        """Write what was kept back."""
        if not self.staged:
            return
        staged, self.staged = self.staged, []
        played = Played.of(staged, *self.keys)
        if not self.tapes.leaves:
            self.tapes.open({k: leaf[0, 0] for k, leaf in played.leaves.items()}, allocate)
        entry = self.tapes.write(played)
        self.latest = named("obs", self.keys[0], staged[-1].step.obs)
        if self.states:
            if not self.states.leaves:
                self.states.open(staged[0].state, self.tapes.directory, allocate)
                self.tapes.watch(self.states.leaves)
            self.states.write([each.state for each in staged], entry, played.ends)
        if self.batching != "segments":
            step, env = played.ends.nonzero().unbind(1)
            self.episodes.add(env, entry[step, env] + 1)
        self._advance()
        reward, start = played.leaves["reward"], (played.leaves["flags"] & START).bool()
        self.ended.append(self.sums.ended(reward.T, start.T, played.ends[-1]))

    @property
    def ready(self) -> bool:
        """Whether there is anything to sample."""
        self.flush()
        return bool(self.segments.count if self.batching == "segments" else len(self._whole()))

    @torch.no_grad()
    def sample(self, progress: float) -> Sequences:
        """`batch_size` rows; `progress` (0 to 1) is how much of the training is done.

        Raises ValueError where there is nothing to draw from.
        """
        if not self.ready:
            raise ValueError("the replay has nothing to sample yet")
        rows, length = self.batch_size, self.steps + 1
        unit, weight = torch.zeros(rows, dtype=torch.int64), torch.ones(rows)
        if self.batching == "tape":
            return self._rows(*end_to_end(self._whole(), rows, length), unit, weight)
        if self.batching == "trajectory":
            known = self._whole()
            env, first, _ = known[torch.randint(len(known), (rows,))].unbind(1)
        elif self.priorities:
            unit = self.priorities.draw(rows)
            beta = self.beta + (1 - self.beta) * progress if self.anneal_beta else self.beta
            weight = self.priorities.weights(unit, self.segments.count, beta)
            env, first = self.segments.locate(unit)
        else:
            unit = self.segments.draw(rows)
            env, first = self.segments.locate(unit)
        entry = first[:, None] + torch.arange(length)
        return self._rows(env[:, None], entry, unit, weight)

    def update_priorities(self, unit: Tensor, priority: Tensor) -> None:
        """What rows that were sampled are worth now; nothing where all are equally likely."""
        if self.priorities:
            self.priorities.update(unit.cpu(), priority.detach().cpu())

    def episode_metrics(self) -> dict[str, float]:
        """Of the episodes that ended since the last call: how many, mean return and length."""
        self.flush()
        ended, self.ended = self.ended, []
        if not ended:
            return {"episodes": 0.0}
        returns, lengths = (torch.cat(parts) for parts in zip(*ended, strict=True))
        return summary(returns, lengths)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; of a replay in files only where in them it is."""
        self.flush()
        if not self.tapes.leaves:
            return {}
        state = {
            "tapes": self.tapes.state_dict(),
            "latest": self.latest,
            "episodes": self.episodes.state_dict(),
        }
        if self.states and self.tapes.directory is None:
            state["states"] = self.states.leaves
        if self.priorities:
            state["priorities"] = self.priorities.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, in a replay to which nothing was added yet.

        An episode that was not over is truncated: no environment could be saved in it.
        """
        if not state:
            return
        self.tapes.load_state_dict(state["tapes"], allocate)
        if self.states:
            self.states.load_state_dict(state.get("states"), self.tapes.directory, allocate)
            self.tapes.watch(self.states.leaves)
        self.episodes.load_state_dict(state["episodes"])
        self.segments.advance(self.tapes.head, self.tapes.oldest)
        if self.priorities:
            self.priorities.load_state_dict(state["priorities"], self.segments.numbers())
        self.latest = state["latest"]
        env = self.tapes.seal(self.latest)
        if self.batching != "segments":
            self.episodes.add(env, self.tapes.head[env] - 1)
        self._advance()

    def _advance(self) -> None:
        """Forget what was overwritten, and know of what is whole now."""
        if self.batching != "segments":
            self.episodes.forget(self.tapes.oldest)
            return
        fresh, stale = self.segments.advance(self.tapes.head, self.tapes.oldest)
        if self.priorities:
            self.priorities.remove(stale)
            self.priorities.add(fresh)

    def _whole(self) -> Tensor:
        """The episodes that rows may begin with."""
        if self.batching == "tape":
            return self.episodes.known
        return self.episodes.followed(self.tapes.head, self.steps + 1)

    def _rows(self, env: Tensor, entry: Tensor, unit: Tensor, weight: Tensor) -> Sequences:
        """The rows of these entries [B, T + 1]."""
        leaves = self.tapes.read(self.tapes.slot(env, entry))
        flags, steps = leaves["flags"], slice(0, self.steps)
        truncated, last = (flags & TRUNCATED).bool(), (flags & LAST).bool()
        mask = learnable(last, truncated, self.burn_in)
        state = self.policy.initial_state(len(unit))
        if self.states:
            state = self.states.read(unit, state)

        def put(leaf: Tensor) -> Tensor:
            return leaf.to(self.device, non_blocking=True)

        def group(name: str, keys: Iterable[str], part: slice) -> Tensors:
            return {key: put(leaves[f"{name}{i}"][:, part]) for i, key in enumerate(keys)}

        return Sequences(
            obs=group("obs", self.keys[0], slice(None)),
            start=put((flags & START).bool()),
            action=group("action", self.keys[1], steps),
            reward=put(leaves["reward"][:, steps]),
            terminated=put((flags & TERMINATED).bool()[:, steps]),
            truncated=put(truncated[:, steps]),
            mask=put(mask),
            state=state,
            weight=put(weight),
            unit=unit,
            burn_in=self.burn_in,
        )


def _check(options: Mapping[str, Any], num_envs: int) -> None:
    if options["batching"] not in BATCHINGS:
        raise unknown("batching", options["batching"], BATCHINGS)
    for name in ("capacity", "batch_size", "length", "stride"):
        positive(f"replay.{name}", options[name])
    at_least("replay.burn_in", options["burn_in"], 0)
    for name in ("alpha", "beta"):
        share(f"replay.{name}", options[name])
    room, row = options["capacity"] // num_envs, options["burn_in"] + options["length"] + 1
    if room < 2 * row or room < options["stride"]:
        raise UsageError(
            f"replay.capacity ({options['capacity']}) leaves each of {num_envs} environments room "
            f"for {room} steps: two rows of {row} are the least, and one stride"
        )


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def allocate(
    example: dict[str, Tensor] | None, size: int, directory: Path | None
) -> dict[str, Tensor]:
    """Tensors [size, ...] for entries like `example`; None maps those that `directory` holds.

    Raises `UsageError` where the files are there already, or are not.
    """
    # Imported where it is needed: it takes as long as all the rest of a start.
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorStorage

    if directory is None:
        assert example is not None
        storage: TensorStorage = LazyTensorStorage(size)
    elif example is None:
        if not (directory / "meta.json").exists():
            raise UsageError(f"{directory} does not hold the replay of this run any more")
        storage = TensorStorage(TensorDict.load_memmap(directory))
    else:
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"replay.directory must be an empty or a new folder, not {directory}")
        storage = LazyMemmapStorage(size, scratch_dir=directory)
    if example is not None:
        with _quiet(logging.getLogger("torchrl")):  # it tells how large its storages are
            storage.set(0, TensorDict(example))
    leaves = storage.state_dict()["_storage"]
    return {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
