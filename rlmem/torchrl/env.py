"""Any environment of rlmem as a torchrl environment.

Differences between torchrl and rlmem, and surprises of torchrl:

- rlmem's environments start the next episode in the step that ends one. torchrl expects the last
  observation in `("next", key)` and the first one from a later `reset` with a `_reset` mask. So the
  first observation is kept here until that reset. The data equal the wrapped environment's; no step
  is played twice.
- A transform may end an episode on its own (`StepCounter(max_steps=...)`) and reset that row. The
  `VecEnv` protocol cannot reset single rows. This is an error, unless all rows are reset at once.
  Give the limit to the environment itself (`max_episode_steps` of `gym`).
- `rollout(break_when_all_done=True)` steps with a `_step` mask. Rows that have ended stay unchanged
  in the data, while the environment continues. Such rows can be reset only together with all rows.
- `rollout(break_when_any_done=True)`, the default, stops as soon as one row ends, and the next
  rollout resets all rows. Pass False to get rows of several episodes.
- `reset` without a mask is a full reset, also right after an episode's end.
- A seed takes effect at the next full reset: environment i gets the seed `seed + i`. A collector
  has already reset when its `set_seed` is called, and would continue with an observation of the old
  episodes. That is an error here. Seed the environment first, or call `collector.reset()` after.
- torchrl can step a state that is done, and then the data are wrong. Here it is an error if
  `check_actions` is set.
- A `TensorDictPrimer` needs `expand_specs=True` to fit a batch of environments.
- A collector returns the same tensordict object at every iteration: clone data that you keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from rlmem.spaces.action_mask import NAME
from rlmem.torchrl.specs import LeafSpec, MaskSpec

FLAGS = ("done", "terminated", "truncated")


@dataclass(slots=True)
class EpisodeStatus:
    """The status of every environment. Not attributes of `EnvBase`: setting those is slow.

    `obs` are the observations after the last step. In rows that are `fresh` they are the first of
    an episode that has not been stepped yet. Rows that are `idle` have ended and were not reset.
    """

    obs: Tensors
    fresh: Tensor
    idle: Tensor


class TorchRLEnv(EnvBase):
    """A torchrl environment of `env`, or of the environment named `env` with these options.

    The batch size is [N]. Keys are flat and named as rlmem names its leaves: `action` and `obs`, or
    `obs.0`, `obs.position`, `action.move`, ... (`td.unflatten_keys(".")` nests them). `reward`
    (float32), `done`, `terminated` and `truncated` are [N, 1] each. See `LeafSpec` for the specs;
    `categorical_action_encoding=False` makes discrete actions one-hot, and
    `categorical_obs_encoding=False` discrete observations. A mask of the actions, as
    `obs.action_mask`, has the key `action_mask` and is boolean, as torchrl's `ActionMask` and
    `MaskedCategorical` read it.

    With `check_actions` an invalid action is a ValueError that names the space. On a GPU the check
    synchronises with the device.
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
        self._obs: dict[str, LeafSpec | MaskSpec] = {}
        self._obs |= self._leaves(vec.observation_space, not categorical_obs_encoding, False)
        self._keys = self._rename_mask()
        self._action = self._leaves(vec.action_space, not categorical_action_encoding, True)
        self.observation_spec = self._composite(self._obs)
        self.action_spec = self._composite(self._action)
        column = (vec.num_envs, 1)
        self.reward_spec = Unbounded(shape=column, device=self.device)
        flag = Categorical(2, shape=column, dtype=torch.bool, device=self.device)
        flags = {key: flag.clone() for key in FLAGS}
        self.done_spec = Composite(flags, shape=self.batch_size, device=self.device)
        self._never = torch.zeros(vec.num_envs, dtype=torch.bool, device=self.device)
        self._status = EpisodeStatus({}, self._never, self._never)

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
        return self._tensordict({**self._encoded(self._status.obs), **flags})

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._seed is not None:
            raise UsageError("set_seed must be followed by a reset (of a collector: `reset()`)")
        stepped = tensordict.get("_step", None)
        stepped = None if stepped is None else stepped.reshape(self.batch_size)
        step = self.vec_env.step(self._decoded(tensordict, stepped))
        done = step.terminated | step.truncated
        self._status.obs, self._status.fresh = step.obs, done.clone()
        self._status.idle = self._status.fresh if stepped is None else done | ~stepped
        out = self._tensordict(
            {
                **self._encoded(step.final_obs),
                "reward": step.reward.unsqueeze(-1).clone(),
                "done": done.unsqueeze(-1),
                "terminated": step.terminated.unsqueeze(-1).clone(),
                "truncated": step.truncated.unsqueeze(-1).clone(),
            }
        )
        return out if stepped is None else self._hold(out, tensordict, stepped)

    def _step_proc_data(self, next_tensordict_out: TensorDictBase) -> TensorDictBase:
        # The base class would check flags and shapes, which takes 0.02 ms.
        return next_tensordict_out

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments."""
        if not self.is_closed:
            self.vec_env.close()
        super().close(raise_if_closed=raise_if_closed)

    def to(self, device: torch.device | str) -> TorchRLEnv:
        """The environment itself if it is on `device`; else a `UsageError`: it cannot move."""
        wanted = torch.device(device)
        if wanted.type != self.device.type or wanted.index not in (None, self.device.index):
            raise UsageError(f"environments stay on {self.device}; make them with device={wanted}")
        return self

    def _restart(self, seed: int | Sequence[int] | None) -> None:
        obs = self.vec_env.reset(self._seed if seed is None else seed)
        self._seed = None
        self._status = EpisodeStatus(obs, self._never, self._never)

    def _restart_rows(self, rows: Tensor, seed: int | Sequence[int] | None) -> None:
        """Start the next episodes of `rows`, or restart the environment if these are all rows."""
        status = self._status
        running = rows & ~status.fresh
        seed = self._seed if seed is None else seed
        if seed is None and status.obs and not bool(running.any()):
            status.fresh, status.idle = status.fresh & ~rows, status.idle & ~rows
        elif bool(rows.all()):
            self._restart(seed)
        elif seed is not None or not status.obs:
            raise UsageError("the first reset, and one with a seed, must be of all rows")
        else:
            raise UsageError(
                f"row {_first(running)} is in the middle of an episode: a single row can be reset "
                "only after the environment itself has ended its episode; reset all rows"
            )

    def _decoded(self, tensordict: TensorDictBase, stepped: Tensor | None) -> Tensors:
        """The actions as the environment takes them, checked if `check_actions` is set."""
        check = self._check is not None
        action = {
            key: leaf.decode(tensordict.get(key), check) for key, leaf in self._action.items()
        }
        if self._check is not None:
            self._check(action)
            self._check_rows(stepped)
        return action

    def _check_rows(self, stepped: Tensor | None) -> None:
        """Raise a `UsageError` if an idle row is stepped without a reset."""
        idle = self._status.idle
        wrong = idle if stepped is None else idle & stepped
        if bool(wrong.any()):
            raise UsageError(f"row {_first(wrong)} has ended: reset it before you step it")

    def _hold(
        self, out: TensorDictBase, tensordict: TensorDictBase, stepped: Tensor
    ) -> TensorDictBase:
        """`out`, but in rows that are not `stepped` the previous data, with reward 0."""
        before = tensordict.select(*out.keys(), strict=False)
        return before.set("reward", torch.zeros_like(out["reward"])).where(~stepped, out)

    def _leaves(self, spaces: Spaces, one_hot: bool, action: bool) -> dict[str, LeafSpec]:
        options = (self.batch_size[0], self.device, one_hot, action)
        return {key: LeafSpec(space, *options) for key, space in spaces.items()}

    def _rename_mask(self) -> dict[str, str]:
        """Make the mask of the actions boolean; returns its key in tensordicts by its leaf."""
        vec = self.vec_env
        masks = [key for key in vec.observation_space if key.split(".")[-1] == NAME]
        if len(masks) != 1:
            return {}
        (key,) = masks
        self._obs[key] = MaskSpec(vec.observation_space[key], vec.num_envs, self.device)
        return {key: NAME}

    def _composite(self, leaves: Mapping[str, LeafSpec | MaskSpec]) -> Composite:
        specs = {self._keys.get(key, key): leaf.spec for key, leaf in leaves.items()}
        return Composite(specs, shape=self.batch_size, device=self.device)

    def _encoded(self, obs: Tensors) -> Tensors:
        """Observations in the specs' encoding, copied: torchrl writes to them (in a collector)."""
        encoded = {key: leaf.encode(obs[key]) for key, leaf in self._obs.items()}
        return {self._keys.get(key, key): leaf for key, leaf in encoded.items()}

    def _tensordict(self, leaves: Tensors) -> TensorDict:
        # As torchrl does for its own: validating the leaves costs 15 us per step.
        return TensorDict._new_unsafe(leaves, batch_size=self.batch_size, device=self.device)


def _first(rows: Tensor) -> int:
    return int(rows.long().argmax())
