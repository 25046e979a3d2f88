"""`rlmem show`, `check` and `list`: facts about environments in a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlmem.cli import show
from rlmem.cli.help import CONFIGS
from rlmem.cli.hydra_errors import compose
from rlmem.cli.main import main
from rlmem.runs import probe
from rlmem.runs.probe import RandomPlay
from tests.envs import test_checks

FEW = ["num_envs=4", "hidden_size=8", "algo.num_steps=16", "algo.num_minibatches=2"]


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "TRAIN", 0.05)
    monkeypatch.setattr("rlmem.cli.check_env.SECONDS", 0.3)
    monkeypatch.setenv("COLUMNS", "200")


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a table by their label."""
    found: dict[str, list[str]] = {}
    for label, line in re.findall(r"^  (\w[\w ]*\w)? +(?<=  )(\S.*)$", text, re.M):
        found.setdefault(label or list(found)[-1], []).append(line)
    return found


def test_a_task_with_known_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "env=popgym-repeat", "env.difficulty=hard", *FEW]) == 0
    text = capsys.readouterr().out
    assert text.startswith("popgym-repeat: name the suit of the card shown k - 1 cards before (")
    found = rows(text)
    assert found["observations"] == ["obs: Discrete → one-hot, 4 inputs"]
    assert found["actions"] == ["action: Discrete(4)"]
    assert re.fullmatch(r"-0\.\d+ to 0\.\d+ in random play", found["rewards"][0])
    assert re.fullmatch(r"\d+ steps in \d+ random episodes", found["episodes"][0])
    chance, player = found["returns"][0].split("  ")
    assert (float(chance), player) == (pytest.approx(-0.5, abs=0.05), "random actions")
    assert found["returns"][1:] == ["-0.497  without memory", "1.000  optimal"]
    assert re.fullmatch(
        r"300,000 steps of ppo with ffm: about [\d.]+ \w+ \([\d,]+ steps/s here\)",
        found["training"][0],
    )


def test_random_tasks_are_played_by_their_oracle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "env=meta-bandit", *FEW]) == 0
    found = rows(capsys.readouterr().out)
    chance, oracle = (float(line.split()[0]) for line in found["returns"])
    # Ten arms with uniform chances: 50 of 100 at random, 100 * 10 / 11 with the best arm.
    assert chance == pytest.approx(50, abs=2)
    assert oracle == pytest.approx(100 * 10 / 11, abs=3)
    assert found["trials"][0].endswith("random trials, 100 episodes each")
    assert "total_steps=1000000, num_envs=128" in found["tuned"][1]


def test_environments_of_gymnasium_and_algorithms_without_a_dataset(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "env=CartPole-v1", "algo=dt"]) == 0
    text = capsys.readouterr().out
    found = rows(text)
    assert text.startswith("CartPole-v1\n")
    assert found["rewards"] == ["1 to 1 in random play"]
    assert found["returns"][-1] == "the optimum is not known"
    assert "not measured (algo.dataset must name a folder" in found["training"][0]


def test_nothing_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["show", "algo=sac", "record=data", "algo.replay.directory=replay"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_speed_is_that_of_learning() -> None:
    few = ["algo=sac", "algo.learning_starts=100000", "algo.num_steps=8", "num_envs=4"]
    few += ["hidden_size=8", "algo.replay.length=8", "algo.replay.capacity=1000"]
    slow = probe.training_speed(compose("train", [*few, "algo.num_updates=20"]), 0.2)
    fast = probe.training_speed(compose("train", [*few, "algo.num_updates=1"]), 0.2)
    assert fast > 2 * slow
    assert torch.get_num_threads() == 1


def test_texts() -> None:
    play = RandomPlay(500, 1.0, (0.0, 1.0), [], [])
    assert show.lengths(play) == "no episode ended in 500 random steps (1.0 s)"
    play = play._replace(lengths=[3, 1_001])
    assert show.lengths(play) == "3 to 1,001 (mean 502) steps in 2 random episodes"
    assert [show.duration(seconds) for seconds in (7.4, 119.0, 6e2, 7.2e3, 4e4, 1e6)] == [
        "7 s",
        "119 s",
        "10 minutes",
        "2.0 hours",
        "11 hours",
        "12 days",
    ]


def test_check_of_an_environment_without_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "env=tests.envs.test_checks:Masked"]) == 0
    found = rows(capsys.readouterr().out)
    assert found["observations"] == [
        "obs.image: uint8 HWC grid 3x3x1 → small convolution",
        "obs.kind: Discrete → one-hot, 3 inputs",
        "obs.vector: float32 vector of 2 → 2 inputs, not scaled",
        "obs.action_mask: mask of 5 values of action → legal actions, not an input",
    ]
    assert found["action mask"] == ["obs.action_mask"]
    assert found["rewards"] == ["0.5 to 0.5 a step"]
    assert re.fullmatch(r"9 steps in \d+ random episodes", found["episodes"][0])
    assert re.fullmatch(r"[\d,]+ steps/s of one copy", found["speed"][0])
    assert found["faults"] == ["none found"]


def test_check_of_an_environment_with_faults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"{test_checks.__name__}:Outside"
    assert main(["check", f"env={name}"]) == 2
    out, err = capsys.readouterr()
    fault = "obs.vector[1] is 3.5 in step 4, outside of its space (-1 to 1)"
    assert rows(out)["faults"] == [fault]
    assert err == f"rlmem: {name} has faults, listed above\n"


@pytest.mark.parametrize("env", ["popgym-battleship", "meta-bandit", "tmaze-active", "masked"])
def test_check_of_our_environments(env: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"env={env}"]) == 0
    assert rows(capsys.readouterr().out)["faults"] == ["none found"]


def test_lists_of_one_kind(
    capsys: pytest.CaptureFixture[str], error_line: Callable[..., str]
) -> None:
    groups = {"cores": "core", "envs": "env", "algos": "algo", "tuned": "tuned"}
    for kind, group in groups.items():
        assert main(["list", kind]) == 0
        listed = re.findall(r"^  (\S+)  +\S", capsys.readouterr().out, re.M)
        assert listed == sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert "unknown list 'core'; did you mean cores or encoders?" in error_line("list", "core")
