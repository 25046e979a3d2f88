"""`import rlmem`: names without imports, and few imports at their use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rlmem
from rlmem import errors
from rlmem.runs import agent, callbacks, evaluate_agent, result

ROOT = Path(__file__).parents[1]


def loaded(code: str, tmp_path: Path) -> set[str]:
    """The packages that are loaded after `code`."""
    ask = f"{code}\nimport sys; print('loaded', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded")[2].split())


def test_names_are_those_of_their_modules() -> None:
    assert rlmem.Agent is agent.Agent
    assert rlmem.load is agent.load
    assert rlmem.evaluate is evaluate_agent.evaluate
    assert rlmem.Callback is callbacks.Callback
    assert rlmem.Training is callbacks.Training
    assert rlmem.Result is result.Result
    assert rlmem.UsageError is errors.UsageError
    for name in rlmem.__all__:
        assert getattr(rlmem, name) is not None
    assert set(rlmem.__all__) <= set(dir(rlmem))
    with pytest.raises(AttributeError, match="module 'rlmem' has no attribute 'lode'"):
        rlmem.lode  # noqa: B018


def test_the_front_door_imports_nothing(tmp_path: Path) -> None:
    heavy = {"torch", "numpy", "hydra", "gymnasium", "torchrl", "popgym"}
    assert not heavy & loaded("import rlmem; dir(rlmem)", tmp_path)


def test_parts_are_found_at_their_first_use(tmp_path: Path) -> None:
    code = "import rlmem; rlmem.cores.make('gru', input_size=4); rlmem.kernels.linear_scan"
    assert not {"hydra", "gymnasium", "torchrl"} & loaded(code, tmp_path)


TRAIN = """
import rlmem
rlmem.train("popgym-repeat", core="gru", num_envs=4, hidden_size=8, total_steps=128,
            eval_episodes=2, run_dir="run", algo={"num_steps": 32, "num_minibatches": 2})
"""
UNUSED = {"torchrl", "tensordict", "popgym", "scipy", "matplotlib", "pandas", "sympy", "triton"}


def test_training_and_loading_import_few_packages(tmp_path: Path) -> None:
    # Torch's compiler imports sympy and triton.
    assert not UNUSED & loaded(TRAIN, tmp_path)
    load = "import rlmem; agent = rlmem.load('run'); agent.act(1); agent.value(1)"
    assert not (UNUSED | {"hydra", "tensorboard", "rich"}) & loaded(load, tmp_path)
