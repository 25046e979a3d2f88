"""Experience for off-policy algorithms: collect into a replay, then sample batches from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from rlmem.data.batch import SequenceBatch
from rlmem.data.place import load_place, save_place
from rlmem.data.replay import Replay
from rlmem.envs.base import VecEnv
from rlmem.errors import at_least, positive
from rlmem.policies import Policy
from rlmem.policies.normalizer import normalizers
from rlmem.ranks import group, reduce


class ReplayCollector:
    """Runs a policy in N environments, `num_steps` steps per call, and adds them to a replay.

    There are no batches before `learning_starts` steps. `replay` holds the options of `Replay`. All
    numbers of steps are those of all ranks.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: Policy,
        seed: list[int],
        num_steps: int,
        num_updates: int,
        learning_starts: int,
        replay: Mapping[str, Any],
    ) -> None:
        self.env = env
        self.policy = policy
        self.num_steps = positive("num_steps", num_steps)
        self.num_updates = positive("num_updates", num_updates)
        self.learning_starts = at_least("learning_starts", learning_starts, 0)
        self.steps = group.count() * env.num_envs * num_steps
        self.obs = env.reset(seed)
        self.start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        self.state = policy.initial_state(env.num_envs)
        self.replay = Replay(env, policy, **replay)
        self.normalizers = normalizers(policy)
        for normalizer in self.normalizers:
            normalizer.guess_from(self.obs)
        self.collected = 0
        self.updates = 0

    @torch.no_grad()
    # In float32 also in a training under autocast: products of few rows do not get faster with it,
    # and an environment may multiply matrices too.
    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def collect(self) -> None:
        """Run `num_steps` steps in every environment; updates the statistics of observations.

        The replay holds observations as they are. The policy normalises them when it reads them.
        """
        seen = []
        for _ in range(self.num_steps):
            seen.append(self.obs)
            act = self.policy.act(self.obs, self.state, self.start)
            step = self.env.step(act.action)
            self.replay.add(self.obs, self.start, self.state, act.action, step)
            self.obs, self.start, self.state = step.obs, step.memory_reset, act.state
        self.collected += self.steps
        for normalizer in self.normalizers:
            normalizer.observe(
                {key: torch.stack([obs[key] for obs in seen]) for key in normalizer.keys}
            )

    def episode_metrics(self) -> dict[str, float]:
        """Number, mean return and mean length of the episodes that ended since the last call."""
        return self.replay.episode_metrics()

    def batches(self, progress: float) -> Iterator[SequenceBatch]:
        """`num_updates` batches; each is sampled after the update with the previous one.

        `progress` (0 to 1) is the finished fraction of the training. `updates` counts the batches,
        including the current one.
        """
        if self.collected < self.learning_starts:
            return
        if reduce.highest_number(int(not self.replay.ready)):
            return
        for _ in range(self.num_updates):
            batch = self.replay.sample(progress)
            self.updates += 1
            yield batch

    @property
    def steps_until_learning(self) -> int:
        """The steps before the first update, at least; 0 after it.

        The first row of a replay must fit into them. Batches that need a complete episode may
        begin even later.
        """
        if self.updates:
            return 0
        row = (self.replay.steps + 1) * self.env.num_envs * group.count()
        first = 1 if self.replay.batching == "tape" else row - 1
        return max(first, self.learning_starts, self.collected + 1) - self.collected

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed run."""
        return {
            "replay": self.replay.state_dict(),
            "collected": self.collected,
            "updates": self.updates,
            **save_place(self.env, self.obs, self.start, self.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; without a place in it, the new episodes stay.

        Raises `CannotContinue` if the environments or the replay cannot go on from the place.
        """
        self.collected, self.updates = state["collected"], state["updates"]
        if (place := state.get("place")) is not None:
            self.obs, self.start, self.state = load_place(place, self.env, self.obs, self.state)
        self.replay.load_state_dict(state["replay"], continued=place is not None)
