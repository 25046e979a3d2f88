"""`rlmem diagnose run=...`: a run folder and an agent file, and bad input in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import rlmem
from rlmem.cli.main import main
from rlmem.diagnose.trained import Budget, diagnose
from rlmem.runs.agent import load

SMALL = ["episodes=12", "steps=4", "decisions=3"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "maze"
    options = {"algo.num_steps": 16, "algo.num_minibatches": 1, "log.tensorboard": False}
    rlmem.train(
        "tmaze-passive", core="gru", total_steps=64, run_dir=str(folder), num_envs=4, hidden_size=8,
        eval_episodes=2, threads=1, **{"env.corridor_length": 4}, **options,
    )  # fmt: skip
    return folder


def test_a_run_is_diagnosed_in_its_folder(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", f"run={run_dir}", *SMALL]) == 0
    out = capsys.readouterr().out
    titles = ("Saliency: ", "Retention: ", "Use: ", "Interference: ", "Probes: ")
    assert all(f"\n{title}" in f"\n{out}" for title in titles)
    assert out.endswith(
        f"written to {run_dir}/diagnose/diagnose.md, diagnose.json and pictures beside them\n"
    )
    found = json.loads((run_dir / "diagnose" / "diagnose.json").read_text())
    assert (found["env"], found["core"], found["algo"]) == ("tmaze-passive", "gru", "ppo")
    assert found["seeds"] == [0]
    assert found["analyses"]["retention"]["longest"] == 5
    # The hidden state of the environment has been shown to the probes, not to the agent.
    assert "privileged[0]" in found["analyses"]["probes"]["facts"]
    # The same from Python.
    again = diagnose(run_dir, analyses=["use"], budget=Budget(episodes=12))
    mean = again["analyses"]["use"]["returns"]["with memory"].value
    assert found["analyses"]["use"]["returns"]["with memory"]["value"] == mean


def test_an_agent_file_is_diagnosed_in_a_given_environment(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "maze.rlmem"
    load(run_dir).save(file)
    place = ["env=tmaze-passive", "env.corridor_length=4"]
    chosen = ["analyses=use,probes", "seeds=2"]
    assert main(["diagnose", f"run={file}", *place, *chosen, *SMALL, f"twin={run_dir}"]) == 0
    assert "twin, fully observed" in capsys.readouterr().out
    found = json.loads((tmp_path / "maze-diagnose" / "diagnose.json").read_text())
    assert list(found["analyses"]) == ["use", "probes"]
    assert found["seeds"] == [0, 1]


def test_an_analysis_that_does_not_apply_is_one_line(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["analyses=probes", "episodes=5", f"dir={tmp_path}/out"]
    assert main(["diagnose", f"run={run_dir}", *arguments]) == 0
    line = "probes left out: probes need at least 10 episodes"
    assert line in capsys.readouterr().out.splitlines()
    assert (tmp_path / "out" / "diagnose.md").read_text() == line + "\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run=RUN", "core=gru"], "core is an option of rlmem diagnose core=..., not of run="),
        (["run=RUN", "analyses=salience"], "unknown analysis 'salience'; did you mean saliency"),
        (["run=RUN", "episodes=0"], "episodes must be an integer of at least 1, not 0"),
        (["run=RUN", "eval_max_steps=x"], "eval_max_steps must be an integer, not 'x'"),
        (["run=RUN", "steps=many"], "steps must be an integer, not 'many'"),
        (["run=RUN", "env.corridor_length=4"], "has its own environment"),
        (["run=RUN", "env=other.py:Maze"], "was trained with env=tmaze-passive"),
        (["run=RUN", "checkpoint=7"], "checkpoint"),
        (["run=RUN", "episode=7"], "unknown option of rlmem diagnose 'episode'"),
        (["run=nowhere"], "nowhere is neither a run folder nor an agent file"),
        (["run=FILE", "env.corridor_length=4"], "has its own environment"),
        (["run=FILE", "env=popgym-repeat"], "the agent observes"),
        (["run=FILE", "env=tmaze-passive", "env.cor=4"], "unknown option of env 'tmaze-passive'"),
        (["episodes=7"], "episodes needs run=..., a trained agent"),
        (["episode=7"], "unknown option of rlmem diagnose 'episode'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], line: str, run_dir: Path, error_line: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "maze.rlmem"
    load(run_dir).save(file)
    places = {"run=RUN": f"run={run_dir}", "run=FILE": f"run={file}"}
    assert line in error_line("diagnose", *(places.get(each, each) for each in arguments))


def test_a_file_without_an_environment_is_one_line(
    run_dir: Path, error_line: Callable[..., str], tmp_path: Path
) -> None:
    # As written by an older version, or for an environment of Python.
    agent = load(run_dir)
    agent.spec = replace(agent.spec, training=None)
    agent.save(tmp_path / "maze.rlmem")
    for command in ("diagnose", "eval"):
        line = error_line(command, f"run={tmp_path}/maze.rlmem")
        assert "maze.rlmem does not name its environment" in line


def test_code_of_a_folder_is_not_imported(run_dir: Path, error_line: Callable[..., str]) -> None:
    # A folder that names an encoder of its own.
    strange = Path("strange")
    shutil.copytree(run_dir, strange)
    for file in strange.glob("*.yaml"):
        text = file.read_text()
        file.write_text(text.replace("encoder: default", "encoder: evil:Encoder"))
    assert "add trust=true" in error_line("diagnose", "run=strange")
