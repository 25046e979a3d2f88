"""torchrl's own masks work on our environments: the mask has the key `action_mask`."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torchrl.data import Binary
from torchrl.envs import ActionMask, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.modules import MaskedCategorical

from rlmem.envs.base import Spaces, Tensors, Transition
from rlmem.torchrl import TorchRLEnv


class Choices:
    """Random masks of four actions; an illegal action is an error. Episodes of five steps."""

    num_envs, device, steps = 3, torch.device("cpu"), 0

    def __init__(self) -> None:
        self.observation_space: Spaces = {
            "obs.observation": spaces.Box(-1, 1, (2,)),
            "obs.action_mask": spaces.Box(0, 1, (4,), np.int8),
        }
        self.action_space: Spaces = {"action": spaces.Discrete(4)}

    def reset(self, seed: object = None) -> Tensors:
        self.time = 0
        return self._obs()

    def step(self, action: Tensors) -> Transition:
        assert self.mask.gather(1, action["action"][:, None]).all()
        Choices.steps += 1
        self.time += 1
        over = torch.full((3,), self.time % 5 == 0)
        obs = self._obs()
        return Transition(obs, torch.zeros(3), over, ~over & over, obs, over)

    def close(self) -> None: ...

    def _obs(self) -> Tensors:
        self.mask = torch.rand(3, 4) < 0.3
        self.mask[:, 2] |= ~self.mask.any(1)
        return {"obs.observation": torch.rand(3, 2), "obs.action_mask": self.mask.float()}


def test_the_mask_is_boolean_and_has_torchrls_key() -> None:
    env = TorchRLEnv(Choices())
    spec = env.observation_spec["action_mask"]
    assert isinstance(spec, Binary)
    assert spec.dtype == torch.bool
    assert set(env.observation_spec.keys()) == {"obs.observation", "action_mask"}
    data = env.reset()
    assert data["action_mask"].dtype == torch.bool
    assert data["action_mask"].shape == (3, 4)


def test_random_actions_of_torchrls_transform_are_legal() -> None:
    env = TransformedEnv(TorchRLEnv(Choices()), ActionMask())
    before = Choices.steps
    data = env.rollout(40, break_when_any_done=False)
    assert Choices.steps == before + 40
    assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()


def test_torchrls_masked_distribution_reads_it() -> None:
    env = TorchRLEnv(Choices())

    def policy(observation: Tensor, mask: Tensor) -> Tensor:
        return MaskedCategorical(logits=torch.randn(3, 4), mask=mask).sample()

    before = Choices.steps
    env.rollout(20, policy, break_when_any_done=False)
    assert Choices.steps == before + 20


def test_masks_of_boards_pass_along() -> None:
    env = TorchRLEnv("popgym-battleship", num_envs=2, action_mask=True, previous_action=False)
    data = env.rollout(3, break_when_any_done=False)
    assert data["next", "action_mask"].shape == (2, 3, 8, 8)
    assert data["next", "action_mask"][:, 0].flatten(1).sum(1).tolist() == [63, 63]
    check_env_specs(env)
