"""Exported steps act as their agents: over all cores and algorithms, in ONNX Runtime and torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from gymnasium import spaces

from rlmem.errors import UsageError
from tests.cores.common import NAMES
from tests.runs.export_agents import ALGOS, VECTOR, make_agent
from tests.runs.exported import CASES
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]
# Cores with complex and integer states.
FEW = ["ffm", "transformer_xl"]
# By night.
RARE = ("encoder", "sampled", "folded", "missing", "untouched")
# In groups: each is a process, which first imports torch and its exporter.
GROUPS = [
    [*(f"core:{name}" for name in FEW), "algo:ppo"],
]
MORE = [[kind for kind in CASES if kind not in ("core", "any-batch", "algo", "mask", *RARE)]]
MORE += [[f"core:{name}" for name in NAMES[i::4]] for i in range(4)]
MORE += [
    [f"algo:{name}" for name in ALGOS],
    ["any-batch:ffm", "any-batch:stack", "any-batch:transformer_xl", "any-batch:titans:depth=1"],
    ["mask:ppo:joint=1", "mask:r2d2", "mask:amago", "mask:dt"],
    ["core:mingru:gate=complex", "core:s5:discretization=bilinear", "core:lmu:hippo=legs"],
    ["core:titans:use=context", *RARE],
]
GROUPS += [pytest.param(cases, marks=pytest.mark.slow) for cases in MORE]


@pytest.mark.parametrize("cases", GROUPS, ids=lambda cases: cases[0])
def test_exported_steps_equal_the_agent(cases: list[str]) -> None:
    # In separate processes: the shape checks of the tests cannot be traced.
    lines = python("-W", "ignore", "-m", "tests.runs.exported", *cases).splitlines()
    results = [json.loads(line) for line in lines if line[:1] == "["]
    assert [case for case, *_ in results] == cases
    assert not {case: problem for case, problem, _ in results if problem}


def python(*arguments: str, code: int = 0, new: bool = False) -> str:
    """Standard output of Python, or standard error if another exit code is expected.

    `new`: in an interpreter that has imported nothing.
    """
    interpreter = [sys.executable] if new else warm_python()
    done = subprocess.run(
        [*interpreter, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an agent in all three formats, written by the command line."""
    path = tmp_path_factory.mktemp("exports")
    agent = make_agent("ppo", VECTOR, spaces.Discrete(4, start=1), core="s5")
    agent.export(path / "agent.rlmem")
    for name in ("agent.onnx", "agent.pt2"):
        printed = python("-m", "rlmem", "export", f"run={path}/agent.rlmem", f"to={path}/{name}")
        assert printed.startswith(f"wrote {path}/{name} (")
    return path


INPUTS = [
    {"name": "obs", "dtype": "float32", "shape": ["N", 3]},
    {"name": "start", "dtype": "bool", "shape": ["N"]},
    {"name": "state", "dtype": "float32", "shape": ["N", 64, 2]},
]


def test_an_onnx_file_describes_itself(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "agent.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["rlmem"])
    assert about["inputs"] == INPUTS
    assert about["state"] == {"state": "next_state"}
    assert about["action_space"] == {"discrete": 4, "start": 1}
    assert (about["core"], about["algo"], about["deterministic"]) == ("s5", "ppo", True)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        (field["name"], field["shape"]) for field in INPUTS
    ]
    outputs = [each.name for each in session.get_outputs()]
    assert (
        outputs == [each["name"] for each in about["outputs"]] == ["action", "logits", "next_state"]
    )


PLAIN = """
import json, sys
sys.modules.update(dict.fromkeys(["rlmem", "gymnasium", "jaxtyping"]))
import torch
about = {"rlmem.json": ""}
program = torch.export.load(sys.argv[1], extra_files=about)
given = {"obs": torch.zeros(5, 3), "start": torch.ones(5, dtype=torch.bool)}
given["state"] = torch.zeros(5, 64, 2)
outputs = program.module()(given)
print(json.loads(about["rlmem.json"])["core"], outputs["action"].tolist())
"""


def test_a_program_of_torch_needs_only_torch(folder: Path) -> None:
    agent = make_agent("ppo", VECTOR, spaces.Discrete(4, start=1), core="s5")
    printed = python("-W", "ignore", "-c", PLAIN, str(folder / "agent.pt2"), new=True)
    action = agent.act([0.0, 0.0, 0.0])
    assert printed.strip() == f"s5 {[int(action)] * 5}"


def test_wrong_arguments_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent("ppo", VECTOR, spaces.Discrete(4))
    for path, message in (
        ("a.txt", r"must end in .onnx, .pt2, .rlmem"),
        ("no/a.pt2", r"there is no folder .*no"),
    ):
        with pytest.raises(UsageError, match=message):
            agent.export(tmp_path / path)
    with pytest.raises(UsageError, match="batch must be an integer of at least 1, not 0"):
        agent.export(tmp_path / "a.pt2", batch=0)
    with pytest.raises(UsageError, match="neither deterministic nor batch"):
        agent.export(tmp_path / "a.rlmem", deterministic=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"a.onnx needs onnx: pip install 'rlmem\[onnx\]'"):
        agent.export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_names_its_options(tmp_path: Path) -> None:
    line = python("-m", "rlmem", "export", f"run={tmp_path}", code=2)
    assert line.startswith("rlmem: rlmem export needs run=")
    line = python("-m", "rlmem", "export", f"run={tmp_path}/none", "to=a.onnx", code=2)
    assert "neither a run folder nor an agent file" in line
