"""Scans in segments keep little memory; the law about their results is in `rlmem.testing`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlmem import cores, envs
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic


def saved_bytes(segments: int | None) -> int:
    """The bytes that a scan of 64 steps keeps for its backward pass, outside of checkpoints."""
    torch.manual_seed(0)
    core = cores.make("s5", input_size=4, ssm_size=64)
    core.checkpoint_segments = segments
    x, start = torch.randn(2, 64, 4, requires_grad=True), torch.zeros(2, 64, dtype=torch.bool)
    found = []

    def pack(tensor: Tensor) -> Tensor:
        found.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        core.scan(x, core.initial_state(2), start)
    return sum(found)


def test_segments_keep_their_inputs_alone() -> None:
    state = cores.make("s5", input_size=4, ssm_size=64).initial_state(2)
    inputs = 2 * 64 * (4 * 4 + 1)  # numbers and starts
    assert saved_bytes(8) == inputs + 8 * state.nbytes
    assert saved_bytes(None) > inputs + 64 * state.nbytes


def test_policies_take_the_option() -> None:
    env = envs.make("memory-chain", num_envs=2, length=5)
    spaces = env.observation_space, env.action_space

    def policy(segments: int | None) -> ActorCritic:
        torch.manual_seed(0)
        options = {"core": "gru", "hidden_size": 8, "checkpoint_segments": segments}
        return ActorCritic(*spaces, separate_critic=True, **options)

    obs = {key: torch.stack([leaf] * 7, 1) for key, leaf in env.reset(0).items()}
    start = torch.zeros(2, 7, dtype=torch.bool)
    whole, parts = policy(None), policy(3)
    assert parts.critic_trunk is not None
    assert parts.core.checkpoint_segments == parts.critic_trunk.core.checkpoint_segments == 3
    assert whole.state_dict().keys() == parts.state_dict().keys()
    for each in (whole, parts):
        _, value = each(obs, each.initial_state(2), start)
        value.sum().backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with pytest.raises(UsageError, match="checkpoint_segments must be"):
        policy(0)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_row() -> None:
    """Eight times the steps take at most 1.3 times the memory, input and output included."""
    script = Path(__file__).parents[2] / "scripts" / "segment_memory.py"
    command = [sys.executable, str(script), "--cores", "s5"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    row = done.stdout.strip().splitlines()[-1].split("|")
    assert float(row[4]) > 6  # in one piece
    assert float(row[7]) < 1.3
