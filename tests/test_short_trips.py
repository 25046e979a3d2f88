"""The number of files that one iteration of an algorithm runs, and the list in CONTRIBUTING."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from rlmem.cli.hydra_errors import compose
from rlmem.runs.build import build

ROOT = Path(__file__).parents[1]
# In a single process and in float32, their functions return at once what they, or torch, are given.
AT_ONCE = {"rlmem/ranks/group.py", "rlmem/ranks/reduce.py", "rlmem/kernels/bf16_linear/ops.py"}


def files_of_an_iteration(algo: str, *options: str) -> set[str]:
    """The files of the package with code that runs in the third iteration."""
    sizes = ["num_envs=8", "hidden_size=16", *options]
    cfg = compose("train", ["env=popgym-repeat", "core=ffm", f"algo={algo}", "run_dir=x", *sizes])
    env, _, algorithm = build(cfg)
    for _ in range(2):
        algorithm.iterate(0.0)
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        metrics = algorithm.iterate(0.1)
    finally:
        sys.setprofile(None)
        env.close()
    assert "grad_norm" in metrics, "it did not learn"
    package = str(ROOT / "rlmem")
    return {Path(name).relative_to(ROOT).as_posix() for name in seen if name.startswith(package)}


def test_an_iteration_of_ppo_runs_few_files():
    files = files_of_an_iteration("ppo", "algo.num_steps=60")
    assert "rlmem/envs/popgym/repeat.py" in files
    assert len(files - AT_ONCE) <= 16, sorted(files)


def test_an_iteration_of_sac_runs_few_files():
    options = ["algo.num_steps=60", "algo.learning_starts=0", "algo.replay.capacity=8000"]
    files = files_of_an_iteration("sac", *options)
    assert len(files - AT_ONCE) <= 24, sorted(files)


def test_contributing_lists_the_files_of_ppo():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"<!-- ppo files -->\n(.*?)<!-- end -->", text, re.S)
    assert block
    listed = re.findall(r"`(rlmem/[\w/]+\.py)`", block[1])
    assert 1 <= len(listed) <= 6
    run = files_of_an_iteration("ppo", "algo.num_steps=60")
    assert set(listed) <= run
    tools = {
        "rlmem/tree.py",
        "rlmem/algos/optimizer.py",
        "rlmem/policies/encoders/base.py",
        "rlmem/policies/heads.py",
    }
    elsewhere = {name for name in run if name.split("/")[1] in ("envs", "kernels")}
    # The rest are layers and helpers with one job each.
    assert run - elsewhere - set(listed) <= tools | AT_ONCE
