"""Any of our environments as a torchrl environment.

What torchrl expects and ours do otherwise, and what surprises in torchrl:

- Ours start the next episode in the step that ends one. torchrl wants the last observation in
  `("next", key)` and the first one from a later `reset` with a `_reset` mask. So the first one
  waits here until it is asked for; nothing is played twice, the data are the bare environment's.
- A transform may end an episode that the environment goes on with (`StepCounter(max_steps=...)`)
  and ask for a reset of its row. The `VecEnv` protocol has none: that is a clear error, unless all
  rows are reset at once. Give the environment itself the limit (`max_episode_steps` of `gym`).
- `rollout(break_when_all_done=True)` steps with a `_step` mask: rows that have ended stand still
  in the data, while ours play on. They can then be reset with all the others only.
- `rollout(break_when_any_done=True)`, the default, stops as soon as one row ends, and the next one
  resets all of them. Give False to have whole rows of several episodes.
- `reset` without a mask is a full reset, also where episodes have just ended.
- A seed counts from the next full reset on: environment i has the seed `seed + i`. A collector has
  already reset when its `set_seed` is called, and would go on with an observation of other
  episodes: that is an error here. Seed its environment before, or call `collector.reset()` after.
- A state that is done can be stepped in torchrl, and the data are wrong then; here it is an error
  where `check_actions` allows a look at the rows.
- A `TensorDictPrimer` needs `expand_specs=True` to fit a batch of environments.
- A collector hands out one and the same tensordict at every iteration: clone what you keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from rlmem.envs.adapters import ActionCheck, made
from rlmem.envs.base import Spaces, Tensors, VecEnv
from rlmem.errors import UsageError
from rlmem.torchrl.specs import LeafSpec

FLAGS = ("done", "terminated", "truncated")


@dataclass(slots=True)
class Rows:
    """Where the rows are, apart from the module, whose attributes take microseconds to set.

    `obs` are the observations after the last step; in the rows that are `fresh` they begin an
    episode of which nothing has been played. Rows that are `idle` have ended and were not reset.
    """

    obs: Tensors
    fresh: Tensor
    idle: Tensor


class TorchRLEnv(EnvBase):
    """`env` (or the one of that name, made with `num_envs` and `options`) for torchrl's users.

    The batch size is [N]. Keys are flat, under our own names of leaves: `action` and `obs`, or
    `obs.0`, `obs.position`, `action.move`, ... (`td.unflatten_keys(".")` nests them), and `reward`
    (float32), `done`, `terminated` and `truncated`, each [N, 1]. See `LeafSpec` for the specs;
    `categorical_action_encoding=False` makes discrete actions one-hot, and
    `categorical_obs_encoding=False` discrete observations.

    A wrong action is a ValueError that names the space, if `check_actions` is set. On a GPU looking
    at them waits for the device.
    """

    def __init__(
        self,
        env: VecEnv | str,
        num_envs: int | None = None,
        check_actions: bool = True,
        categorical_action_encoding: bool = True,
        categorical_obs_encoding: bool = True,
        **options: Any,
    ) -> None:
        vec = made(env, num_envs, options)
        super().__init__(device=vec.device, batch_size=[vec.num_envs])
        self.vec_env = vec
        self.is_closed = False
        self._check = ActionCheck(vec) if check_actions else None
        self._seed: int | Sequence[int] | None = None
        self._obs = self._leaves(vec.observation_space, not categorical_obs_encoding)
        self._action = self._leaves(vec.action_space, not categorical_action_encoding)
        self.observation_spec = self._composite(self._obs)
        self.action_spec = self._composite(self._action)
        column = (vec.num_envs, 1)
        self.reward_spec = Unbounded(shape=column, device=self.device)
        flag = Categorical(2, shape=column, dtype=torch.bool, device=self.device)
        flags = {key: flag.clone() for key in FLAGS}
        self.done_spec = Composite(flags, shape=self.batch_size, device=self.device)
        self._never = torch.zeros(vec.num_envs, dtype=torch.bool, device=self.device)
        self._rows = Rows({}, self._never, self._never)

    def _reset(
        self,
        tensordict: TensorDictBase | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None:
            self._restart(seed)
        else:
            self._restart_rows(mask.reshape(self.batch_size), seed)
        flags = dict(zip(FLAGS, self._never.repeat(3, 1).unsqueeze(-1), strict=True))
        return self._tensordict({**self._encoded(self._rows.obs), **flags})

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._seed is not None:
            raise UsageError("set_seed must be followed by a reset (of a collector: `reset()`)")
        stepped = tensordict.get("_step", None)
        stepped = None if stepped is None else stepped.reshape(self.batch_size)
        step = self.vec_env.step(self._decoded(tensordict, stepped))
        done = step.terminated | step.truncated
        self._rows.obs, self._rows.fresh = step.obs, done.clone()
        self._rows.idle = self._rows.fresh if stepped is None else done | ~stepped
        out = self._tensordict(
            {
                **self._encoded(step.final_obs),
                "reward": step.reward.unsqueeze(-1).clone(),
                "done": done.unsqueeze(-1),
                "terminated": step.terminated.unsqueeze(-1).clone(),
                "truncated": step.truncated.unsqueeze(-1).clone(),
            }
        )
        return out if stepped is None else self._still(out, tensordict, stepped)

    def _step_proc_data(self, next_tensordict_out: TensorDictBase) -> TensorDictBase:
        # The base class would look for flags that are missing and for other shapes (0.02 ms).
        return next_tensordict_out

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments."""
        if not self.is_closed:
            self.vec_env.close()
        super().close(raise_if_closed=raise_if_closed)

    def to(self, device: torch.device | str) -> TorchRLEnv:
        """Itself, if it is on that device already; else a `UsageError`: say so where it is made."""
        asked = torch.device(device)
        if asked.type != self.device.type or asked.index not in (None, self.device.index):
            raise UsageError(f"environments stay on {self.device}; make them with device={asked}")
        return self

    def _restart(self, seed: int | Sequence[int] | None) -> None:
        obs = self.vec_env.reset(self._seed if seed is None else seed)
        self._seed = None
        self._rows = Rows(obs, self._never, self._never)

    def _restart_rows(self, rows: Tensor, seed: int | Sequence[int] | None) -> None:
        """Hand out the next episodes of `rows`; all of them can be started anew as well."""
        begun = self._rows
        running = rows & ~begun.fresh
        seed = self._seed if seed is None else seed
        if seed is None and begun.obs and not bool(running.any()):
            begun.fresh, begun.idle = begun.fresh & ~rows, begun.idle & ~rows
        elif bool(rows.all()):
            self._restart(seed)
        elif seed is not None or not begun.obs:
            raise UsageError("the first reset, and one with a seed, must be of all rows")
        else:
            raise UsageError(
                f"row {_first(running)} is in the middle of an episode: single rows start anew "
                "only where the environment itself has ended theirs; reset all rows"
            )

    def _decoded(self, tensordict: TensorDictBase, stepped: Tensor | None) -> Tensors:
        """The actions, checked."""
        check = self._check is not None
        action = {
            key: leaf.decode(tensordict.get(key), check) for key, leaf in self._action.items()
        }
        if self._check is not None:
            self._check(action)
            self._check_rows(stepped)
        return action

    def _check_rows(self, stepped: Tensor | None) -> None:
        """Rows that have ended, or stood still, must be reset before they are stepped."""
        idle = self._rows.idle
        wrong = idle if stepped is None else idle & stepped
        if bool(wrong.any()):
            raise UsageError(f"row {_first(wrong)} has ended: reset it before you step it")

    def _still(
        self, out: TensorDictBase, tensordict: TensorDictBase, stepped: Tensor
    ) -> TensorDictBase:
        """`out`, but as it was, without a reward, in the rows that are not `stepped`."""
        before = tensordict.select(*out.keys(), strict=False)
        return before.set("reward", torch.zeros_like(out["reward"])).where(~stepped, out)

    def _leaves(self, spaces: Spaces, one_hot: bool) -> dict[str, LeafSpec]:
        size = self.batch_size[0]
        return {key: LeafSpec(space, size, self.device, one_hot) for key, space in spaces.items()}

    def _composite(self, leaves: dict[str, LeafSpec]) -> Composite:
        specs = {key: leaf.spec for key, leaf in leaves.items()}
        return Composite(specs, shape=self.batch_size, device=self.device)

    def _encoded(self, obs: Tensors) -> Tensors:
        """Observations as torchrl may write to them (a collector's `reset` does)."""
        return {key: leaf.encode(obs[key]) for key, leaf in self._obs.items()}

    def _tensordict(self, leaves: Tensors) -> TensorDict:
        # As torchrl makes its own: to look at leaves that are right costs 15 us a step.
        return TensorDict._new_unsafe(leaves, batch_size=self.batch_size, device=self.device)


def _first(rows: Tensor) -> int:
    return int(rows.long().argmax())
