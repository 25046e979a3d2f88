"""The option `compile`: its lines, and training with torch.compile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import rlmem
from rlmem import envs
from rlmem.errors import UsageError
from rlmem.runs import checkpoint, compiling

TINY: dict[str, Any] = {"hidden_size": 8, "num_envs": 4, "eval_episodes": 2, "core": "gru"}
TINY |= {"log.tensorboard": False, "log.progress": False, "total_steps": 96, "device": "cpu"}
ROWS = {"algo.num_steps": 12, "algo.num_minibatches": 2}


def test_an_unknown_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown compile 'fast'.*known: auto, graphs, inductor"):
        rlmem.train("popgym-repeat", compile="fast", run_dir=str(tmp_path / "run"), **TINY)


@pytest.mark.parametrize(
    ("mode", "line"),
    [
        ("auto", ""),
        ("graphs", "compile=graphs has no effect: the device is cpu, and CUDA graphs need a GPU\n"),
    ],
)
def test_a_cpu_has_no_graphs(
    mode: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TINY | ROWS
    result = rlmem.train("popgym-repeat", compile=mode, run_dir=str(tmp_path / "run"), **options)
    said = [each for each in capsys.readouterr().err.splitlines(True) if "graphs" in each]
    assert "".join(said) == line
    assert result.step == 96


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize("core", ["ffm", "gru"])
def test_inductor_is_equal_to_rounding(core: str, tmp_path: Path) -> None:
    weights = []
    for mode in ("none", "inductor"):
        options = TINY | ROWS | {"core": core, "compile": mode, "run_dir": str(tmp_path / mode)}
        result = rlmem.train("popgym-repeat", **options)
        weights.append(checkpoint.load(result.run_dir).weights)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)


def test_an_algorithm_without_such_parts_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    env = envs.make("popgym-repeat", num_envs=2)
    cfg = OmegaConf.create({"compile": "inductor", "algo": {"name": "sac"}})
    compiling.apply(cfg, object(), env, torch.device("cpu"))  # type: ignore[arg-type]
    line = "compile=inductor has no effect: algo sac is not compiled\n"
    assert capsys.readouterr().err == line
