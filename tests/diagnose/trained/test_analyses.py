"""All analyses of untrained agents: every algorithm, kinds of cores and of environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlmem import algos
from rlmem.diagnose import trained
from rlmem.diagnose.trained import Budget, run
from tests.diagnose.trained.agents import subject

SMALL = Budget(episodes=12, steps=5, decisions=3)
# A state of one tensor, of several, complex numbers, windows, matrices, none.
CORES = ["lstm", "s5", "transformer_xl", "mlstm", "titans", "gated_deltanet", "frame_stack", "none"]


@pytest.mark.parametrize("algo", algos.registry.names())
def test_every_algorithm_is_diagnosed(algo: str) -> None:
    agent = subject(algo=algo)
    before = torch.get_rng_state()
    result, _ = run(agent, SMALL, trained.chosen([]))
    assert torch.equal(torch.get_rng_state(), before)
    assert set(result["analyses"]) == set(trained.ANALYSES)
    assert result["left_out"] == {}
    assert all(each.requires_grad for each in agent.policy.parameters())
    saliency = result["analyses"]["saliency"]
    has_value = algo not in ("ad", "dt")
    assert ("value" in saliency) == has_value
    assert ("left_out" in saliency) != has_value


def test_results_are_written_with_pictures(tmp_path: Path) -> None:
    result, sections = run(subject(), SMALL, trained.chosen([]), tmp_path)
    assert len(sections) == len(trained.ANALYSES)
    assert {path.name for path in tmp_path.iterdir()} == {
        "diagnose.json",
        "diagnose.md",
        "interference.png",
        "probes.png",
        "retention.png",
        "saliency.png",
    }
    written = json.loads((tmp_path / "diagnose.json").read_text())
    assert written["episodes"] == 12
    use = written["analyses"]["use"]["returns"]["with memory"]
    assert use == result["analyses"]["use"]["returns"]["with memory"]._asdict()
    page = (tmp_path / "diagnose.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## {section.title}" for section in sections
    ]


@pytest.mark.parametrize("core", CORES)
def test_kinds_of_cores(core: str) -> None:
    result, _ = run(subject(core), SMALL, trained.chosen([]))
    if core == "none":
        names = ("retention", "interference", "probes")
        assert result["left_out"] == dict.fromkeys(names, "the agent has no memory")
        assert set(result["analyses"]) == {"saliency", "use"}
        assert result["analyses"]["saliency"]["action"]["largest"][1:] == [0.0] * 3
    else:
        assert set(result["analyses"]) == set(trained.ANALYSES)


@pytest.mark.parametrize("algo", ["ppo", "sac", "amago", "dt"])
def test_continuous_actions_are_drawn_for_saliency(algo: str) -> None:
    options = {"episodes": 1, "length": 4}
    agent = subject(algo=algo, env="meta-point-robot", options=options, hidden={})
    result, _ = run(agent, SMALL, ["saliency", "use", "probes"])
    assert result["left_out"] == {}
    assert result["analyses"]["saliency"]["greedy"] is False
    # The hidden task has its facts, and an oracle.
    assert list(result["analyses"]["probes"]["facts"])
    assert {"random", "oracle"} <= set(result["analyses"]["use"]["returns"])


def test_environments_of_gymnasium_have_no_known_hidden_state() -> None:
    options = {"id": "CartPole-v1", "max_episode_steps": 6}
    agent = subject(env="gym", options=options, hidden={})
    result, _ = run(agent, SMALL, trained.chosen([]))
    reason = "no hidden state of the environment is known"
    assert result["left_out"] == {"probes": reason}


def test_trials_are_diagnosed_as_wholes() -> None:
    agent = subject(env="meta-bandit", options={"episodes": 6}, hidden={})
    result, _ = run(agent, SMALL, trained.chosen([]))
    assert result["left_out"] == {}
    assert result["analyses"]["retention"]["longest"] == 6
    assert len(result["analyses"]["saliency"]["action"]["largest"]) == 5  # steps


def test_words_of_reveal_are_facts() -> None:
    agent = subject(env="memory-chain", options={"length": 3}, hidden={})
    result, _ = run(agent, Budget(episodes=40, steps=5), ["probes"])
    assert list(result["analyses"]["probes"]["facts"]) == ["reveal"]


def test_seeds_are_strata_of_the_interval() -> None:
    budget = Budget(episodes=5, seeds=(0, 1, 2), steps=4)
    result, _ = run(subject(), budget, ["use"])
    assert result["seeds"] == [0, 1, 2]
    one, _ = run(subject(), Budget(episodes=15, seeds=(0,), steps=4), ["use"])
    value = result["analyses"]["use"]["returns"]["with memory"]
    assert value.low <= value.value <= value.high
    assert one["analyses"]["use"]["returns"]["with memory"].low <= value.high


class Hidden(gym.Env):
    """Shows a bit once, and its hidden state in the infos."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**options)
        self.bit, self.t = int(self.np_random.integers(2)), 0
        return np.array([2 * self.bit - 1], np.float32), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), float(action == self.bit), self.t == 3, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"privileged": {"bit": self.bit, "t": self.t}}


def test_infos_of_gymnasium_have_facts() -> None:
    options = {"id": [Hidden], "vectorization": "sync", "info_privileged": False}
    agent = subject("frame_stack", env="gym", options=options, hidden={"info_privileged": True})
    result, _ = run(agent, Budget(episodes=40), ["probes"])
    found = result["analyses"]["probes"]["facts"]
    assert list(found) == ["bit"]  # the time does not vary in a part of the episode
    assert [each["memory"].value for each in found["bit"]] == [1.0, 1.0, 1.0]
    assert [each["observation"].value == 1.0 for each in found["bit"]] == [True, False, False]
