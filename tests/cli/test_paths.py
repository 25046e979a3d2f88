"""Paths on the command line: `~`, spaces, letters beyond ASCII, quotes, files in the way."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from rlmem.cli.main import main
from rlmem.cli.overrides import PATHS, readable
from rlmem.runs import checkpoint
from tests.cli.common import SMALL


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, in the working folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


NAMES = [
    "plain/name",
    "läufe/größe",
    "with space/x",
    "a (copy)",
    "日本/実行",
    "it's",
    'say "hi"',
    "a=b",
    "a:b",
    "a{b}c",
    "a[1]",
    "x%y@z?*",
    "back\\slash",
    "end\\",
    "2024",
    "1e5",
    "true",
    "-x",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["run_dir", "+run_dir", "algo.replay.directory"])
def test_a_path_is_read_as_it_is_written(key: str, name: str) -> None:
    (override,) = readable([f"{key}={name}"])
    assert OverridesParser.create().parse_override(override).value() == name


@pytest.mark.by_day(3)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_folder_gets_the_given_name(name: str, trained: list[DictConfig]) -> None:
    assert main(["train", f"run_dir={name}"]) == 0
    assert trained[0].run_dir == name


def test_sweeps_lists_and_quotes_keep_their_meaning(home: Path) -> None:
    parser = OverridesParser.create()
    (sweep,) = readable(["run=läufe/a, ~/b,c d"])
    values = [each.text for each in parser.parse_override(sweep).value().list]
    assert values == ["läufe/a", f"{home}/b", "c d"]
    (several,) = readable(["run=[läufe/a,~/b]"])
    assert parser.parse_override(several).value() == ["läufe/a", f"{home}/b"]
    assert readable(["to=~/a.onnx"]) == [f"to='{home}/a.onnx'"]
    assert readable(["out=null", "run='a,b'", "run=[]", "run=glob(*)", "core=gru", "seed=["]) == [
        "out=null",
        "run='a,b'",
        "run=[]",
        "run=glob(*)",
        "core=gru",
        "seed=[",
    ]


def test_other_text_may_have_any_letters(
    trained: list[DictConfig], error_line: Callable[..., str]
) -> None:
    for name in ("Übung-v0", "Übung (schwer)", "a: b; c"):
        assert main(["train", "env=gym", f"env.id={name}"]) == 0
        assert trained[-1].env.id == name
    assert "'Übung-v0'" in error_line("play", "env=gym", "env.id=Übung-v0")


def test_interpolations_are_resolved(trained: list[DictConfig]) -> None:
    assert main(["train", "run_dir=läufe/${core.name}-${seed}", "core=gru"]) == 0
    assert trained[0].run_dir == "läufe/gru-0"


@pytest.mark.parametrize(
    "key", [key for key in PATHS if key not in ("hydra.sweep.dir", "resume", "to")]
)
def test_home_is_expanded(
    key: str, home: Path, monkeypatch: pytest.MonkeyPatch, trained: list[DictConfig]
) -> None:
    command = {"run": "eval", "baseline": "eval", "out": "eval"}.get(key, "train")
    group = {"algo.dataset": ["algo=dt"], "algo.replay.directory": ["algo=r2d2"]}.get(key, [])
    needed = ["run=x", "split=heldout"] if key in ("baseline", "out") else []
    configs: list[DictConfig] = []
    for name in ("evaluate", "meta_evaluate"):
        monkeypatch.setattr(f"rlmem.runs.{name}.run", lambda cfg: configs.append(cfg) or {})
    assert main([command, *group, *needed, f"{key}=~/a b/c"]) == 0
    (cfg,) = configs or trained
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == f"{home}/a b/c"


def test_home_is_expanded_in_lists_and_for_a_sweep(
    home: Path, monkeypatch: pytest.MonkeyPatch, trained: list[DictConfig]
) -> None:
    configs: list[DictConfig] = []
    monkeypatch.setattr("rlmem.runs.meta_evaluate.run", configs.append)
    assert main(["eval", "split=heldout", "run=[~/a,b]", "baseline=~/ü"]) == 0
    assert (configs[0].run, configs[0].baseline) == ([f"{home}/a", "b"], f"{home}/ü")
    assert main(["train", "-m", "seed=0,1", "hydra.sweep.dir=~/fegen ü"]) == 0
    assert [Path(cfg.run_dir).resolve().parent for cfg in trained] == [home / "fegen ü"] * 2


def test_a_whole_run_under_home(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "run_dir=~/läufe/x", "record=~/daten/ü"]) == 0
    assert (home / "daten/ü/000/about.json").exists()
    assert main(["eval", "run=~/läufe/x", "episodes=1"]) == 0
    assert main(["play", "run=~/läufe/x"]) == 0
    capsys.readouterr()
    assert main(["train", "resume=~/läufe/x", "total_steps=384", "record=~/daten/ü"]) == 0
    assert capsys.readouterr().out.endswith(f"rlmem play run='{home}/läufe/x'\n")
    assert checkpoint.steps(home / "läufe/x")[-1] == 384
    assert json.loads((home / "läufe/x/eval.json").read_text())["step"] == 384
    assert not list(Path().glob("~*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train run_dir=file", "run_dir=file: {}/file is a file, not a folder"),
        ("train run_dir=file/x/y", "run_dir=file/x/y: {}/file is a file, not a folder"),
        ("train record=file", "record=file: {}/file is a file, not a folder"),
        ("train algo=r2d2 algo.replay.directory=file/x", "algo.replay.directory=file/x: {}/file"),
        ("train run_dir=/proc/none/x", "cannot make the folder /proc/none/x"),
        ("train run_dir=" + 300 * "a", "File name too long"),
        ("train run_dir=", "run_dir is empty: give a folder"),
        ("train run_dir=~nobody0/x", "run_dir=~nobody0/x: there is no such user"),
        ("train resume=file", "file is not a run folder"),
        ("train -m seed=0,1 hydra.sweep.dir=file", "file: File exists"),
        ("eval run=file", "file is not an agent file"),
        ("play run=file/x", "file/x is not a run folder"),
    ],
)
def test_unusable_folders_are_one_line(
    arguments: str, message: str, tmp_path: Path, error_line: Callable[..., str]
) -> None:
    Path("file").write_text("mine")
    command, *rest = shlex.split(arguments)
    small = SMALL if command == "train" and "r2d2" not in arguments else []
    assert message.format(tmp_path) in error_line(command, *small, *rest)
    assert Path("file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
