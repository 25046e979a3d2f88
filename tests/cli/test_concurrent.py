"""Several processes that start in the same second: each has a run folder of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlmem.cli.main import main
from rlmem.runs import checkpoint
from tests.cli.common import SMALL, python

# Hydra's clock stands still, and the program begins when the file `go` appears.
PROGRAM = """
import sys, time
from datetime import datetime
from pathlib import Path
import hydra.core.utils
import rlmem.cli.commands, rlmem.runs.train
from rlmem.cli.main import main

class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1)

hydra.core.utils.datetime = Clock
print("ready", flush=True)
while not Path("go").exists():
    time.sleep(0.001)
sys.exit(main(sys.argv[1:]))
"""


def start_together(commands: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of commands that begin at the same time."""
    processes = [python("-c", PROGRAM, *command) for command in commands]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    Path("go").touch()
    outputs = [process.communicate(timeout=200) for process in processes]
    return [
        (process.returncode, out, err)
        for process, (out, err) in zip(processes, outputs, strict=True)
    ]


@pytest.mark.slow
def test_runs_of_the_same_second_have_their_own_folders() -> None:
    sizes = (8, 9, 10, 11)
    train = ["train", *SMALL, "core=gru"]
    done = start_together([[*train, f"hidden_size={size}"] for size in sizes])
    assert [code for code, _, _ in done] == [0] * 4, done
    name = Path("runs/popgym-repeat/gru/ppo-seed0-20260101-000000")
    runs = [name, *(name.with_name(f"{name.name}-{number}") for number in (2, 3, 4))]
    assert sorted(Path("runs/popgym-repeat/gru").iterdir()) == sorted(runs)
    printed = {
        Path(out.rsplit("run=", 1)[1].strip()): size
        for (_, out, _), size in zip(done, sizes, strict=True)
    }
    assert set(printed) == set(runs)
    for run, size in printed.items():
        cfg = OmegaConf.load(run / "config.yaml")
        assert (cfg.hidden_size, cfg.run_dir) == (size, str(run))
        widths = {len(w) for n, w in checkpoint.load(run).weights.items() if "core" in n}
        assert widths <= {size, 3 * size}
        # The agent can be loaded, so weights and configuration fit.
        assert main(["eval", f"run={run}", "episodes=1"]) == 0
        assert json.loads((run / "eval.json").read_text())["step"] == 256


@pytest.mark.slow
def test_only_one_run_gets_a_given_folder() -> None:
    done = start_together([["train", *SMALL, "run_dir=a", f"seed={seed}"] for seed in range(4)])
    assert sorted(code for code, _, _ in done) == [0, 2, 2, 2]
    (winner,) = [seed for seed, (code, _, _) in enumerate(done) if code == 0]
    assert OmegaConf.load("a/config.yaml").seed == winner
    assert json.loads(Path("a/eval.json").read_text())["seed"] == winner
    for code, _, err in done:
        assert code == 0 or "rlmem: a already holds a run: use another run_dir" in err


@pytest.mark.slow
def test_sweeps_of_the_same_second_have_their_own_folders() -> None:
    sizes = (8, 9, 10, 11)
    sweep = ["train", "-m", *SMALL, "core=gru", "seed=0,1"]
    done = start_together([[*sweep, f"hidden_size={size}"] for size in sizes])
    assert [code for code, _, _ in done] == [0, 0], done
    folders = [Path("multirun/20260101-000000"), Path("multirun/20260101-000000-2")]
    assert sorted(Path("multirun").iterdir()) == folders
    seen = set()
    for folder in folders:
        runs = sorted(folder.glob("*-seed?"))
        assert [run.name for run in runs] == [
            f"{i}-popgym-repeat-gru-ppo-seed{i}" for i in range(2)
        ]
        (size,) = {OmegaConf.load(run / "config.yaml").hidden_size for run in runs}
        assert f"hidden_size={size}" in (folder / "multirun.yaml").read_text()
        assert all(checkpoint.steps(run) == [256] for run in runs)
        seen.add(size)
    assert seen == set(sizes)


@pytest.mark.parametrize("arguments", [["cor=1,2"], ["core=gru,nothing"]])
def test_a_sweep_without_a_job_leaves_no_folder(arguments: list[str]) -> None:
    assert main(["train", "-m", *SMALL, *arguments]) == 2
    assert not list(Path().glob("multirun/*"))
