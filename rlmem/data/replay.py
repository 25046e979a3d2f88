"""Replay: stores the steps of all environments and samples rows of them.

There are three ways to make rows (`batching`):

- `segments` of burn_in + length steps that begin at every `stride`-th entry, anywhere in an
  episode, drawn by priority. With `stored_state` the memory begins with the agent's state at
  collection, else it begins empty (Kapturowski et al. 2019, section 3).
- `tape`: random complete episodes, end to end; the last one is cut at the end of the row. There is
  no padding, no burn-in and no stored state (Morad et al. 2024, arXiv 2402.09900, "tape-based
  batching").
- `trajectory`: consecutive steps of one environment from the start of an episode (or trial) on,
  across the ends of episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlmem.data.allocation import allocate
from rlmem.data.batch import SequenceBatch
from rlmem.data.priorities import Priorities
from rlmem.data.replay_options import DEFAULTS, check_options, form_difference
from rlmem.data.returns import EpisodeSums, summary
from rlmem.data.ring_digest import RingDigest
from rlmem.data.segments import Episodes, Segments, pack_random, step_mask
from rlmem.data.storage import (
    LAST,
    START,
    TERMINATED,
    TRUNCATED,
    PendingStep,
    RingStorage,
    StepBlock,
    numbered,
)
from rlmem.data.stored_states import StoredStates
from rlmem.envs.base import CannotContinue, Tensors, Transition, VecEnv
from rlmem.errors import unknown
from rlmem.policies import Policy
from rlmem.ranks import group

# Steps that are written together: a single write costs as much as several steps.
CHUNK = 32


class Replay:
    """Stores `capacity` entries in all; `sample` draws `batch_size` rows.

    Both are shared out over the ranks: each stores the steps of its own environments, and draws its
    part of a batch from them.

    `directory` is a folder for memory-mapped files, which may be larger than the memory. `alpha`
    and `beta` are those of `Priorities`; `anneal_beta` anneals beta to 1. These three, `burn_in`,
    `stride` and `stored_state` apply to segments only. The other options default to `DEFAULTS`.
    Raises `UsageError` if one is unknown or out of its range.
    """

    def __init__(self, env: VecEnv, policy: Policy, **given: Any) -> None:
        for name in given:
            if name not in DEFAULTS:
                raise unknown("option of replay", name, DEFAULTS)
        options = {**DEFAULTS, **given}
        check_options(options, group.count() * env.num_envs)
        self.policy, self.device = policy, env.device
        self.batching: str = options["batching"]
        self.batch_size = group.share("algo.replay.batch_size", options["batch_size"])
        self.burn_in: int = options["burn_in"] if self.batching == "segments" else 0
        self.steps: int = self.burn_in + options["length"]
        self.beta: float = options["beta"]
        self.anneal_beta: bool = options["anneal_beta"]
        stride: int = options["stride"]
        slots = options["capacity"] // (group.count() * env.num_envs) // stride * stride
        self.chunk = min(CHUNK, slots // 2)
        directory = None if options["directory"] is None else Path(options["directory"])
        self.storage = RingStorage(env.num_envs, slots, directory, undoable=True)
        self.digests = RingDigest(slots), RingDigest(slots // stride)
        self.keys = tuple(env.observation_space), tuple(env.action_space)
        self.pending: list[PendingStep] = []
        self.latest: dict[str, Tensor] = {}  # the newest observations
        self.sums = EpisodeSums(env.num_envs, torch.device("cpu"))
        self.ended: list[tuple[Tensor, Tensor]] = []
        self.episodes = Episodes(env.num_envs)
        self.segments = Segments(env.num_envs, slots, self.steps + 1, stride)
        number = env.num_envs * self.segments.per_env
        segmented = self.batching == "segments"
        self.states = (
            StoredStates(number, stride) if segmented and options["stored_state"] else None
        )
        self.priorities = (
            Priorities(number, options["alpha"]) if segmented and options["alpha"] else None
        )

    def add(
        self, obs: Tensors, start: Tensor, state: Any, action: Tensors, step: Transition
    ) -> None:
        """Add one step of all environments; `state` is the memory before it.

        The tensors are read later and must not be changed.
        """
        self.pending.append(PendingStep(obs, start, state if self.states else None, action, step))
        if len(self.pending) >= self.chunk:
            self.flush()

    def flush(self) -> None:
        """Write the pending steps."""
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        block = StepBlock.of(pending, *self.keys)
        if not self.storage.leaves:
            self.storage.open({k: leaf[0, 0] for k, leaf in block.leaves.items()}, allocate)
        entry = self.storage.write(block)
        self.latest = numbered("obs", self.keys[0], pending[-1].step.obs)
        if self.states:
            if not self.states.leaves:
                self.states.open(pending[0].state, self.storage.directory, allocate)
                self.states.undo = self.storage.undo
                self.storage.watch(self.states.leaves)
            self.states.write([each.state for each in pending], entry, block.ends)
        if self.batching != "segments":
            step, env = block.ends.nonzero().unbind(1)
            self.episodes.add(env, entry[step, env] + 1)
        self._advance()
        reward, start = block.leaves["reward"], (block.leaves["flags"] & START).bool()
        self.ended.append(self.sums.ended(reward.T, start.T, block.ends[-1]))

    @property
    def ready(self) -> bool:
        """Whether there is at least one row to sample."""
        self.flush()
        if self.batching == "segments":
            return self.segments.count > 0
        return len(self._first_episodes()) > 0

    @torch.no_grad()
    def sample(self, progress: float) -> SequenceBatch:
        """`batch_size` rows; `progress` (0 to 1) is the finished fraction of the training.

        Raises ValueError if the replay is not `ready`.
        """
        if not self.ready:
            raise ValueError("the replay has nothing to sample yet")
        rows, length = self.batch_size, self.steps + 1
        segment, weight = torch.zeros(rows, dtype=torch.int64), torch.ones(rows)
        if self.batching == "tape":
            return self._batch(*pack_random(self._first_episodes(), rows, length), segment, weight)
        if self.batching == "trajectory":
            episodes = self._first_episodes()
            env, first, _ = episodes[torch.randint(len(episodes), (rows,))].unbind(1)
        elif self.priorities:
            segment = self.priorities.draw(rows)
            beta = self.beta + (1 - self.beta) * progress if self.anneal_beta else self.beta
            weight = self.priorities.weights(segment, self.segments.count, beta)
            env, first = self.segments.locate(segment)
        else:
            segment = self.segments.draw(rows)
            env, first = self.segments.locate(segment)
        entry = first[:, None] + torch.arange(length)
        return self._batch(env[:, None], entry, segment, weight)

    def update_priorities(self, segment: Tensor, priority: Tensor) -> None:
        """Set the priorities of sampled segments; does nothing if sampling is uniform."""
        if self.priorities:
            self.priorities.update(segment.cpu(), priority.detach().cpu())

    def episode_metrics(self) -> dict[str, float]:
        """Number, mean return and mean length of the episodes that ended since the last call."""
        self.flush()
        ended, self.ended = self.ended, []
        if not ended:
            return {"episodes": 0.0}
        returns, lengths = (torch.cat(parts) for parts in zip(*ended, strict=True))
        return summary(returns, lengths)

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed run; without the data if it is in files."""
        self.flush()
        if not self.storage.leaves:
            return {}
        state = {
            "storage": self.storage.state_dict(),
            "latest": self.latest,
            "stride": self.segments.stride,
            "per_env": self.segments.per_env,
            "form": self._form,
            "sums": self.sums.state_dict(),
        }
        if self.storage.directory:
            state["digests"] = [
                digest.state(leaves, oldest, head) for digest, leaves, oldest, head in self._rings()
            ]
        if self.batching != "segments":
            state["episodes"] = self.episodes.state_dict()
        if self.states:
            state["states"] = {} if self.storage.directory else self.states.leaves
        if self.priorities:
            state["priorities"] = self.priorities.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], continued: bool = False) -> None:
        """Restore a `state_dict`, in a replay to which nothing was added yet.

        With `continued` the episodes go on: the replay is then exactly the saved one. Raises
        `CannotContinue` if its options were others. Otherwise unfinished episodes are truncated,
        and the options may differ: with another capacity the newest steps are kept, and segments
        keep their stored states and priorities. Raises `UsageError` if the state cannot have these
        options.
        """
        if not state:
            return
        if continued and (changed := form_difference(state["form"], self._form)):
            raise CannotContinue(changed)
        storage, empty = self.storage, self.policy.initial_state(1)
        if self.states:
            self.states.require_loadable(state, storage.directory is not None)
        storage.load_state_dict(state["storage"], allocate)
        if continued and not torch.equal(storage.oldest, state["storage"]["oldest"]):
            raise CannotContinue("later steps have overwritten some of its replay files")
        self.latest = state["latest"]
        if self.batching == "segments":
            self._load_segments(state, empty)
        elif "episodes" in state:
            self.episodes.load_state_dict(state["episodes"])
        else:
            slot = storage.slot(torch.arange(len(storage.head)), storage.oldest)
            whole = (storage.leaves["flags"][slot] & START) != 0
            self.episodes.rebuild(storage.oldest, whole, *storage.finals())
        if storage.directory:
            for saved, (digest, leaves, oldest, _) in zip(
                state.get("digests", ()), self._rings(), strict=False
            ):
                digest.check(saved, leaves, oldest, storage.directory)
        if storage.undo:
            storage.undo.begin(storage.undo.number, storage.head)
        if continued:
            self.sums.load_state_dict(state["sums"])
        else:
            self._truncate(empty)
        self._advance()

    def _rings(self) -> Iterator[tuple[RingDigest, dict[str, Tensor], Tensor, Tensor]]:
        """The digests of entries and stored states, their leaves, and the range that is stored."""
        storage, stride = self.storage, self.segments.stride
        yield self.digests[0], storage.leaves, storage.oldest, storage.head
        if self.states and self.states.leaves:
            first, end = (-(-each // stride) for each in (storage.oldest, storage.head))
            yield self.digests[1], self.states.leaves, first, end

    def _truncate(self, empty: Any) -> None:
        """Truncate unfinished episodes; `empty` is the memory [1, ...] at the start of one."""
        storage = self.storage
        env = storage.truncate(self.latest)
        final = storage.head[env] - 1
        if self.batching != "segments":
            self.episodes.add(env, final)
        elif self.states:
            # The step of a final observation is masked, so this state has no effect but must exist.
            self.states.write_empty(self.segments.beginning_at(env, final), empty)

    @property
    def _form(self) -> dict[str, Any]:
        """The options that shape the stored data, as plain values."""
        return {
            "slots": self.storage.slots,
            "stride": self.segments.stride,
            "length": self.steps,
            "batching": self.batching,
            "stored_state": self.states is not None,
            "alpha": self.priorities is not None,
            "directory": self.storage.directory is not None,
        }

    def _load_segments(self, state: dict[str, Any], empty: Any) -> None:
        """Restore the segments, their stored states and their priorities."""
        head, oldest = self.storage.head, self.storage.oldest
        saved = Segments(len(head), state["per_env"] * state["stride"], 1, state["stride"])
        if self.states:
            # States exist from the first step of a segment on.
            begun = Segments(len(head), self.storage.slots, 1, self.segments.stride)
            begun.advance(head, oldest)
            ids = begun.counterparts(saved)
            where, self.states.undo = self.storage.directory, self.storage.undo
            self.states.load_state_dict(state["states"], empty, *ids, where, allocate)
            self.storage.watch(self.states.leaves)
        self.segments.advance(head, oldest)
        if self.priorities and "priorities" in state:
            ids = self.segments.counterparts(saved)
            self.priorities.load_state_dict(state["priorities"], self.segments.ids(), *ids)
        elif self.priorities:
            self.priorities.add(self.segments.ids())

    def _advance(self) -> None:
        """Drop overwritten episodes or segments, and add new segments."""
        if self.batching != "segments":
            self.episodes.forget(self.storage.oldest)
            return
        added, removed = self.segments.advance(self.storage.head, self.storage.oldest)
        if self.priorities:
            self.priorities.remove(removed)
            self.priorities.add(added)

    def _first_episodes(self) -> Tensor:
        """The episodes that a row can begin with."""
        if self.batching == "tape":
            return self.episodes.table
        return self.episodes.with_entries(self.storage.head, self.steps + 1)

    def _batch(self, env: Tensor, entry: Tensor, segment: Tensor, weight: Tensor) -> SequenceBatch:
        """The rows of these entries [B, T + 1]."""
        leaves = self.storage.read(self.storage.slot(env, entry))
        flags, steps = leaves["flags"], slice(0, self.steps)
        truncated, last = (flags & TRUNCATED).bool(), (flags & LAST).bool()
        mask = step_mask(last, truncated, self.burn_in)
        state = self.policy.initial_state(len(segment))
        if self.states:
            state = self.states.read(segment, state)

        def put(leaf: Tensor) -> Tensor:
            return leaf.to(self.device, non_blocking=True)

        def group(name: str, keys: Iterable[str], part: slice) -> Tensors:
            return {key: put(leaves[f"{name}{i}"][:, part]) for i, key in enumerate(keys)}

        return SequenceBatch(
            obs=group("obs", self.keys[0], slice(None)),
            start=put((flags & START).bool()),
            action=group("action", self.keys[1], steps),
            reward=put(leaves["reward"][:, steps]),
            terminated=put((flags & TERMINATED).bool()[:, steps]),
            truncated=put(truncated[:, steps]),
            mask=put(mask),
            state=state,
            weight=put(weight),
            segment=segment,
            burn_in=self.burn_in,
        )
