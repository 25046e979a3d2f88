"""`rlmem play`: episodes in the terminal, by a trained agent, random actions or a person."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from rich.console import Console

from rlmem import envs
from rlmem.cli.main import main
from rlmem.cli.play.actions import HumanActions, RandomActions
from rlmem.cli.play.describe import Describer, numbers
from rlmem.cli.play.table import StepRow, Table
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError
from tests.cli.common import SMALL

# A row of the table: the step, and the cells after it.
STEP = re.compile(r"^(\d+) +(\S.*?)(?:  +(\S+))?(?:  +(-?[\d.e-]+))?(?:  +(\S.*))?$", re.M)


@pytest.fixture
def type_lines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., io.StringIO]:
    """Puts typed lines into stdin."""

    def type_(*lines: str, terminal: bool = False) -> io.StringIO:
        text = io.StringIO("".join(line + "\n" for line in lines))
        monkeypatch.setattr(text, "isatty", lambda: terminal)
        monkeypatch.setattr("sys.stdin", text)
        return text

    return type_


def test_a_random_episode_is_printed_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "seed=3"]) == 0
    out = capsys.readouterr().out
    title, head, *steps, last = out.splitlines()
    assert title == f"popgym-repeat, seed {eval_seeds(3, 1)[0]}, player: random"
    assert head.split() == ["step", "observation", "action", "reward"]
    rows = [STEP.match(line) for line in steps]
    assert [row and int(row[1]) for row in rows] == list(range(52))
    assert {row[2] for row in rows if row} == set("♠♦♣♥")
    total = sum(float(row[4] or 0) for row in rows if row)
    match = re.fullmatch(r"return (\S+), terminated after 51 steps", last)
    assert match
    assert float(match[1]) == pytest.approx(total, abs=1e-3)
    assert main(["play", "seed=3"]) == 0
    assert capsys.readouterr().out == out
    assert main(["play", "seed=4"]) == 0
    assert capsys.readouterr().out != out


def test_hidden_state_is_printed_only_with_reveal(capsys: pytest.CaptureFixture[str]) -> None:
    maze = ["env=tmaze-passive", "env.corridor_length=2", "episodes=3"]
    assert main(["play", *maze]) == 0
    plain = capsys.readouterr().out
    assert main(["play", *maze, "reveal=true"]) == 0
    revealed = capsys.readouterr().out
    assert plain.count("player: random") == revealed.count("player: random") == 3
    assert re.sub(r"  +(hidden|goal .*)$", "", revealed, flags=re.M) == plain
    # The goal told by the oracle in the first step is hidden state in all later steps.
    for episode in revealed.split("player: random")[1:]:
        goal = re.findall(r"oracle: (\w+)", episode)
        assert set(re.findall(r"goal (\w+)", episode)) == set(goal)
        assert episode.count("goal ") == 3


def test_a_person_types_numbers_or_names(
    type_lines: Callable[..., io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    maze = ["play", "env=tmaze-active", "env.corridor_length=1", "player=human", "reveal=true"]
    type_lines("2", "0", "→", "↑")
    assert main(maze) == 0
    out = capsys.readouterr().out
    rows = [row.groups() for row in STEP.finditer(out)]
    side = re.findall(r"oracle: (\w+)", out)[0]
    assert [row[2] for row in rows[:-1]] == ["←", "→", "→", "↑"]
    assert rows[-1][1] == "up of the junction"
    assert out.endswith(f"return {int(side == 'up')}, terminated after 4 steps\n")


def test_the_oracle_plays_states_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "env=color-cubes", "env.targets=2", "player=oracle", "episodes=3"]) == 0
    assert capsys.readouterr().out.count("return 1, terminated") == 3
    bandit = ["env=meta-bandit", "env.episodes=5", "player=oracle", "reveal=true"]
    assert main(["play", *bandit]) == 0
    rows = re.findall(r"arm (\d+) .*  (0\.\d\d [\d. ]+)$", capsys.readouterr().out, re.M)
    assert len(rows) == 5
    for arm, chances in rows:
        found = [float(chance) for chance in chances.split()]
        assert found[int(arm)] == max(found)


def test_an_invalid_line_at_a_terminal_is_asked_again(
    type_lines: Callable[..., io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines("up", "4", "0", "0", terminal=True)
    assert main(["play", "env=memory-chain", "env.length=1", "player=human"]) == 0
    out = capsys.readouterr().out
    assert out.count("you see 1 left bits") == 4
    assert "'up' is not an action (allowed: 0, 1)" in out
    assert "'4' is not an action (allowed: 0, 1)" in out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0", "5"], "'5' is not an action (allowed: 0 →, 1 ↑, 2 ←, 3 ↓)"),
        (["left"], "'left' is not an action (allowed: 0 →"),
        (["0 1"], "'0 1' is not an action"),
        ([""], "'' is not an action"),
        (["0", "0"], "the input ended before the episode did"),
    ],
)
def test_invalid_lines_without_a_terminal(
    lines: list[str],
    message: str,
    type_lines: Callable[..., io.StringIO],
    error_line: Callable[..., str],
) -> None:
    type_lines(*lines)
    assert message in error_line("play", "env=tmaze-passive", "player=human")


class _Many(gym.Env):
    observation_space = Dict({"image": Box(0, 255, (4, 5, 3), "uint8"), "n": Discrete(3)})
    action_space = Tuple((MultiDiscrete([2, 3], start=[0, 0]), Box(-1.0, 1.0, ()), Discrete(2)))


def test_a_composite_action_is_typed_in_one_line() -> None:
    env = GymVecEnv([_Many])
    human = HumanActions(env, Describer(env))
    action = human.parse("1, 2, -0.5 0")
    assert {key: leaf.tolist() for key, leaf in action.items()} == {
        "action.0": [[1, 2]],
        "action.1": [-0.5],
        "action.2": [0],
    }
    for wrong in ("1 2 -0.5", "1 2 -0.5 0 0", "1 3 0 0", "1 2 2.0 0", "1.5 2 0 0", "1 2 nan 0"):
        with pytest.raises(UsageError, match="is not an action"):
            human.parse(wrong)
    random_actions = RandomActions(env, 0)
    for _ in range(20):
        sample = random_actions({}, True)
        assert all(s.contains(sample[k][0].numpy()) for k, s in env.action_space.items())


def test_observations_as_numbers() -> None:
    image = torch.full((1, 4, 5, 3), 7, dtype=torch.uint8)
    leaves = {"obs.image": image, "obs.n": torch.tensor([2])}
    assert numbers(leaves) == "image=4x5x3, mean 7 n=2"
    assert numbers({"obs": torch.tensor([[0.12345, -3.0]])}) == "0.123 -3"
    assert numbers({"obs": torch.zeros(1, 40)}) == "0 " * 12 + ".. (40)"


def test_a_gymnasium_environment_is_printed_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "env=gym", "env.id=Pendulum-v1", "env.max_episode_steps=3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Pendulum-v1, seed ")
    assert len(re.findall(r"^\d  +-?[\d.]+ -?[\d.]+ -?[\d.]+(e-\d+)?", out, re.M)) == 4
    assert re.search(r"^return -[\d.]+, truncated after 3 steps$", out, re.M)


def test_only_terminals_get_colours() -> None:
    outputs: list[str] = []
    for terminal in (True, False):
        file = io.StringIO()
        system: Any = "standard" if terminal else "auto"
        console = Console(file=file, force_terminal=terminal, color_system=system)
        table = Table(console, reveal=True)
        table.print_header()
        table.print_row(StepRow("0", "a[b]", "c", "1", "secret"), 1.0)
        outputs.append(file.getvalue())
    assert "\x1b[32m1 " in outputs[0]
    assert "\x1b" not in outputs[1]
    assert outputs[1].splitlines()[1].split() == ["0", "a[b]", "c", "1", "secret"]


def test_cells_of_several_lines_are_side_by_side() -> None:
    file = io.StringIO()
    table = Table(Console(file=file), reveal=True)
    table.print_row(StepRow("0", "ab\ncd\nef", "left", "1", "AB\nCD"))
    lines = [re.split(" {2,}", line) for line in file.getvalue().splitlines()]
    assert lines == [["0", "ab", "left", "1", "AB"], ["", "cd", "CD"], ["", "ef"]]
    first, second, _ = file.getvalue().splitlines()
    assert first.index("ab") == second.index("cd")
    assert first.index("AB") == second.index("CD")


def test_a_hidden_cell_adds_no_lines() -> None:
    file = io.StringIO()
    Table(Console(file=file), reveal=False).print_row(StepRow("0", "miss", "left", "1", "AB\nCD"))
    assert file.getvalue().split() == ["0", "miss", "left", "1"]
    assert file.getvalue().count("\n") == 1


def test_every_popgym_task_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in sorted(name for name in envs.names() if name.startswith("popgym-")):
        assert main(["play", f"env={name}", "env.previous_action=true", "reveal=true"]) == 0
        out = capsys.readouterr().out
        steps = re.search(r"^return -?[\d.]+, \w+ after (\d+) steps$", out, re.M)
        assert steps, name
        assert re.findall(r"^(\d+) ", out, re.M) == [str(t) for t in range(int(steps[1]) + 1)], name


def test_a_trained_agent_repeats_its_evaluation(
    capsys: pytest.CaptureFixture[str], error_line: Callable[..., str]
) -> None:
    maze = ["env=tmaze-passive", "env.corridor_length=3"]
    assert main(["train", *SMALL, *maze, "core=gru", "run_dir=a"]) == 0
    assert main(["eval", "run=a", "episodes=3"]) == 0
    capsys.readouterr()
    assert main(["play", "run=a", "episodes=3"]) == 0
    out = capsys.readouterr().out
    assert out.count("tmaze-passive, seed ") == out.count("player: agent") == 3
    returns = [float(number) for number in re.findall(r"^return (\S+),", out, re.M)]
    evaluated = json.loads(Path("a/eval.json").read_text())["returns"]
    assert returns == pytest.approx(evaluated, abs=1e-3)
    assert main(["play", "run=a", *maze, "env.corridor_length=5", "deterministic=false"]) == 0
    assert re.search(r"terminated after 6 steps$", capsys.readouterr().out, re.M)
    assert main(["play", "run=a", "player=random"]) == 0
    assert "player: random" in capsys.readouterr().out
    other = error_line("play", "run=a", "env=tmaze-active")
    assert other == (
        "a was trained with env=tmaze-passive, which cannot be changed to env=tmaze-active"
    )
    wider = error_line("play", "run=a", "env=tmaze-passive", "env.add_timestep=true")
    assert "does not fit this model" in wider
    assert "no checkpoint '999'" in error_line("play", "run=a", "checkpoint=999")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("player=fool", "unknown player 'fool' (known: agent, human, oracle, random)"),
        ("player=oracle", "player=oracle: env 'popgym-repeat' has no oracle"),
        ("player=agent", "player=agent needs run=<dir>"),
        ("episodes=0", "episodes must be at least 1, not 0"),
        ("seed=-1", "seed must not be negative, not -1"),
        ("seed=x", "'x'"),
        ("reveal=maybe", "reveal must be true or false, not 'maybe'"),
        ("env=tmaze", "unknown env 'tmaze'; did you mean tmaze-"),
        ("env=tmaze-active env.length=3", "unknown key of env: 'length'; did you mean"),
        ("env=tmaze-active env.corridor_length=0", "corridor_length must be"),
        ("env=gym reveal=true", "reveal=true: env 'gym' cannot show its hidden state"),
        ("run=nowhere", "nowhere is not a run folder: it does not exist"),
        ("core=gru", "unknown key 'core'"),
        ("policy=human", "unknown key 'policy'"),
    ],
)
def test_bad_options_of_play(
    arguments: str, message: str, error_line: Callable[..., str], tmp_path: Path
) -> None:
    assert message in error_line("play", *arguments.split())
    assert list(tmp_path.iterdir()) == []


def test_play_in_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    arguments: list[Any] = ["play", "-m", "env=copy", "env.length=1", "env.delay=0,2"]
    assert main(arguments) == 0
    assert re.findall(r"after (\d) steps", capsys.readouterr().out) == ["2", "4"]
