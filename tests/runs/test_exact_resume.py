"""A resumed run equals one that was never stopped: weights, metrics, evaluations, replay."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem.cli.main import main
from rlmem.runs import checkpoint
from rlmem.runs.log import RunLogger

TINY = ["threads=1", "num_envs=4", "hidden_size=8", "core=gru", "eval_episodes=3"]
TINY += ["log.tensorboard=false", "log.progress=false", "checkpoint_keep=99"]
ON_POLICY = ["algo.num_steps=9", "algo.num_minibatches=2", "total_steps=252"]
ON_POLICY += ["eval_every=72"]
SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_resume.py"
TIMES = ("seconds", "steps_per_second")


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*arguments: str) -> None:
    assert main(["train", *arguments]) == 0


def back_to(run: str, copy: str, step: int) -> None:
    """Copy a run as it was at its checkpoint of `step`, with the files of a later time."""
    shutil.copytree(run, copy)
    (Path(copy) / "eval.json").unlink()
    for later in checkpoint.steps(copy):
        if later > step:
            shutil.rmtree(checkpoint.find(copy, later))


def rows(run: str, name: str) -> list[dict[str, str]]:
    """The rows of a file of metrics, without times."""
    path = Path(run) / name
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Two trees of tensors and plain values are equal, bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, parts in enumerate(zip(one, other, strict=True)):
            assert_equal(*parts, f"{where}.{index}")
    else:
        assert one == other or (one != one and other != other), where


def assert_same_runs(run: str, other: str) -> None:
    for name in ("metrics.csv", "evaluations.csv"):
        assert rows(run, name) == rows(other, name), name
    evals = [json.loads((Path(each) / "eval.json").read_text()) for each in (run, other)]
    assert evals[0] == evals[1]
    one, two = checkpoint.load(run), checkpoint.load(other)
    assert one.step == two.step
    assert_equal(one.weights, two.weights)
    for each in (one, two):
        each.trainer["rng"].pop("python")  # the type checks of the tests draw from it
        replay = each.trainer["algo"].get("replay", {})
        replay.get("storage", {}).pop("undo", None)  # a random name, and the number of checkpoints
    assert_equal(one.trainer, two.trainer)


def check(*arguments: str, at: int) -> None:
    """A run of these options equals one that is resumed from its checkpoint at step `at`."""
    train(*TINY, *arguments, f"checkpoint_every={at}", "run_dir=a")
    back_to("a", "b", at)
    train("resume=b")
    assert_same_runs("a", "b")


class Killed(BaseException):
    """Ends a process in the middle of its work."""


@pytest.fixture
def train_until(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains until the iteration that ends at a step, without saving anything there."""

    def run(step: int, *arguments: str) -> None:
        log = RunLogger.log

        def kill(self: RunLogger, at: int, values: Any) -> None:
            log(self, at, values)
            if at >= step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(RunLogger, "log", kill)
            with pytest.raises(Killed):
                main(["train", *arguments])

    return run


ENVS = {
    "lockstep": ["env=memory-chain", "env.length=6"],
    "single": ["env=popgym-noisy-position-only-cartpole"],
    "gymnasium": ["env=gym", "env.id=CartPole-v1"],
    "trials": ["env=meta-dark-room", "env.episodes=3", "env.length=7"],
}


@pytest.mark.parametrize(
    ("algo", "env"),
    [
        ("ppo", "trials"),
        ("pqn", "gymnasium"),
        pytest.param("ppo", "single", marks=pytest.mark.slow),
        pytest.param("pqn", "lockstep", marks=pytest.mark.slow),
    ],
)
def test_on_policy(algo: str, env: str) -> None:
    normal = "policy.normalize_obs=true"
    more = ["algo.normalize_reward=true", "algo.anneal_lr=true", normal]
    check(f"algo={algo}", *ON_POLICY, *ENVS[env], *more, at=108)


OFF_POLICY = [
    "algo.num_steps=5",
    "algo.num_updates=2",
    "algo.learning_starts=60",
    "total_steps=400",
]
OFF_POLICY += ["algo.replay.capacity=240", "algo.replay.length=7", "algo.replay.batch_size=4"]
OFF_POLICY += ["eval_every=160"]
BATCHINGS = {
    "segments": ["algo.replay.stored_state=true", "algo.replay.alpha=0.9", "algo.replay.stride=3"],
    "tape": ["algo.replay.stored_state=false", "algo.replay.burn_in=0"],
    "trajectory": ["algo.replay.stored_state=false", "algo.replay.burn_in=0"],
}


SOME = [
    ("sac", "lockstep", "segments"),
    ("r2d2", "single", "tape"),
    ("amago", "trials", "trajectory"),
]
OTHERS = [
    (algo, env, batching)
    for algo, env in (("sac", "single"), ("r2d2", "trials"), ("amago", "lockstep"))
    for batching in BATCHINGS
] + [("r2d2", "single", "segments")]


def check_off_policy(algo: str, env: str, batching: str, *more: str) -> None:
    how = [f"algo.replay.batching={batching}", *BATCHINGS[batching]]
    how += ["algo.replay.burn_in=2"] if batching == "segments" else []
    check(f"algo={algo}", *OFF_POLICY, *ENVS[env], *how, *more, at=280)  # the ring is full


@pytest.mark.parametrize(("algo", "env", "batching"), SOME)
def test_off_policy(algo: str, env: str, batching: str) -> None:
    check_off_policy(algo, env, batching)


@pytest.mark.parametrize(
    ("algo", "env", "batching"),
    [
        ("sac", "lockstep", "segments"),
        pytest.param("amago", "trials", "tape", marks=pytest.mark.slow),
    ],
)
def test_off_policy_in_files(
    algo: str, env: str, batching: str, train_until: Callable[..., None]
) -> None:
    """The files go on after the checkpoint, and overwrite all that it had."""
    how = [f"algo={algo}", *OFF_POLICY, *ENVS[env], f"algo.replay.batching={batching}"]
    how += [*BATCHINGS[batching], "checkpoint_every=140"]
    train(*TINY, *how, "run_dir=a", "algo.replay.directory=a/replay")
    in_files = ["run_dir=b", "algo.replay.directory=b/replay"]
    train_until(260, *TINY, *how, *in_files)
    train_until(360, "resume=b", in_files[1])
    train("resume=b", in_files[1])
    assert_same_runs("a", "b")
    one, two = (sorted(Path(each).glob("*.memmap")) for each in ("a/replay", "b/replay"))
    assert len(one) == len(two) > 3
    for path, other in zip(one, two, strict=True):
        assert path.read_bytes() == other.read_bytes(), path


def test_recorded_steps(train_until: Callable[..., None]) -> None:
    """The recording goes on in its place, over the steps after the checkpoint."""
    how = ["algo=ppo", *ON_POLICY, *ENVS["single"], "checkpoint_every=72"]
    train(*TINY, *how, "run_dir=a", "record=data-a")
    train_until(180, *TINY, *how, "run_dir=b", "record=data-b")
    train("resume=b", "trust=true")
    assert_same_runs("a", "b")
    one, two = (sorted(Path(each).rglob("*.*")) for each in ("data-a", "data-b"))
    assert [path.name for path in one] == [path.name for path in two]
    assert len(one) >= 5
    for path, other in zip(one, two, strict=True):
        assert path.read_bytes() == other.read_bytes(), path
    # A longer run does not fit, and records the rest in a run of its own.
    train("resume=b", "total_steps=360", "trust=true")
    assert sorted(path.name for path in Path("data-b").iterdir()) == ["000", "001"]


@pytest.mark.parametrize("algo", ["dt", pytest.param("ad", marks=pytest.mark.slow)])
def test_offline(algo: str) -> None:
    train(*TINY, "algo=ppo", *ON_POLICY, *ENVS["lockstep"], "run_dir=source", "record=data")
    few = ["algo.batch_size=3", "algo.length=8", "algo.num_updates=2", "total_steps=480"]
    check(f"algo={algo}", *ENVS["lockstep"], *few, "algo.dataset=data", "eval_every=144", at=192)


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "env", "batching"), OTHERS)
def test_off_policy_others(algo: str, env: str, batching: str) -> None:
    check_off_policy(algo, env, batching)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_processes_killed_at_random_moments(name: str) -> None:
    cases = "ppo on trials;r2d2, replay in files"
    command = [sys.executable, str(SCRIPT), "--moments=3", f"--signals={name}", f"--cases={cases}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    assert done.stdout.count("| 3 of 3 |") == 2, done.stdout + done.stderr
