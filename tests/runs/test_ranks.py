"""Several ranks train as one process does, and a run survives the death of a rank."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import rlmem
from rlmem import envs
from rlmem.cli.main import main
from rlmem.errors import UsageError
from rlmem.runs import checkpoint, ranks
from tests.runs import rank_worker
from tests.warm_python import warm_python

TINY: dict[str, Any] = {"core": "gru", "hidden_size": 8, "num_envs": 4, "eval_episodes": 2}
TINY |= {"log.tensorboard": False, "log.progress": False, "checkpoint_keep": 99}
CARTPOLE = {"env": "popgym-noisy-position-only-cartpole", "policy.normalize_obs": True}
ON_POLICY = {"algo.num_steps": 12, "algo.num_minibatches": 1, "algo.num_epochs": 3}
ON_POLICY |= {"total_steps": 192, "checkpoint_every": 96, "algo.normalize_reward": True}
PPO = TINY | CARTPOLE | ON_POLICY | {"algo": "ppo", "algo.target_kl": 0.01}
PPO |= {"algo.separate_critic": True}
PQN = TINY | CARTPOLE | ON_POLICY | {"algo": "pqn", "algo.start_e": 0.0, "algo.end_e": 0.0}
REPLAY = {"algo.num_steps": 4, "algo.learning_starts": 48, "algo.replay.capacity": 160}
REPLAY |= {"algo.replay.length": 6, "algo.replay.stride": 3, "algo.replay.batch_size": 4}
REPLAY |= {"algo.replay.alpha": 0.9, "algo.replay.burn_in": 2, "total_steps": 256}
SAC = TINY | CARTPOLE | REPLAY | {"algo": "sac", "checkpoint_every": 64, "eval_every": 128}


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(arguments: list[str], count: int = 2, **environments: dict[int, str]) -> list[str]:
    """Run `rank_worker` on `count` ranks; returns their error output.

    `environments` are further variables for single ranks, by their numbers.
    """
    port = str(free_port())
    processes = []
    for rank in range(count):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_PORT": port}
        variables |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        variables |= {key: values[rank] for key, values in environments.items() if rank in values}
        command = [*warm_python(), "-m", "tests.runs.rank_worker", *arguments]
        environment = os.environ | variables | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=environment, stderr=pipe, text=True))
    return [process.communicate(timeout=120)[1] for process in processes]


def on_ranks(
    name: str, options: dict[str, Any], **environments: dict[int, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Train on two ranks; returns the results of those that reach the end, and error output."""
    said = start([name, json.dumps(options)], **environments)
    files = [Path(f"{name}-{rank}.pt") for rank in range(2)]
    return [torch.load(file) for file in files if file.exists()], said


def alone(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return rank_worker.train(name, options)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Two sets of weights are equal bit for bit."""
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[key]) for key, weight in one.items())


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    """Two sets of weights are equal, but for rounding."""
    for key, weight in one.items():
        torch.testing.assert_close(weight, other[key], rtol=tolerance, atol=tolerance)


def back_to(run: str, copy: str, step: int) -> None:
    """Copy a run as it was at its checkpoint of `step`."""
    shutil.copytree(run, copy)
    (Path(copy) / "eval.json").unlink()
    for later in [each for each in checkpoint.steps(copy) if each > step]:
        shutil.rmtree(checkpoint.find(copy, later))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `two` of PPO on two ranks, and what its ranks have written."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found, said = on_ranks("two", PPO | {"run_dir": "two"})
    assert len(found) == 2, said
    assert said[1] == ""  # rank 0 alone speaks
    return folder


def assert_same_learning(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    """One process and two ranks have learned the same."""
    error = (two[0]["gradient"] - one["gradient"]).norm() / one["gradient"].norm()
    assert error < 1e-6
    assert_near(one["weights"], two[0]["weights"], 1e-4)
    assert_equal(two[0]["weights"], two[1]["weights"])
    assert two[0]["return_mean"] == two[1]["return_mean"]
    assert two[0]["step"] == two[1]["step"] == one["step"]


def test_two_ranks_learn_what_one_process_learns(two: Path) -> None:
    """Also where one goes on after the other."""
    one = alone("one", PPO | {"run_dir": "one"})
    assert_same_learning(one, [torch.load(two / f"two-{rank}.pt") for rank in range(2)])

    back_to(str(two / "two"), "fewer", 96)
    fewer = alone("fewer", {"resume": "fewer"})
    assert_near(one["weights"], fewer["weights"], 1e-4)
    back_to("one", "more", 96)
    more, said = on_ranks("more", {"resume": "more"})
    assert "goes on at step 96 in the same episodes, with other random numbers" in said[0]
    assert "the number of ranks was 1, not 2" in said[0]
    assert_near(one["weights"], more[0]["weights"], 1e-4)
    assert_equal(more[0]["weights"], more[1]["weights"])


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns_with_pqn() -> None:
    one = alone("one", PQN | {"run_dir": "one"})
    assert_same_learning(one, on_ranks("two", PQN | {"run_dir": "two"})[0])


def check_death(
    name: str, options: dict[str, Any], updates: int, step: int, expected: dict[str, Any]
) -> None:
    """Rank 1 dies after some updates; started again, both go on from the checkpoint of `step`."""
    options = options | {"run_dir": name}
    found, said = on_ranks(name, options, DIE_AFTER={1: str(updates)})
    assert not found
    assert "rank 0: another rank has ended, or cannot be reached" in said[0]
    assert checkpoint.steps(name)[-1] == step
    found, said = on_ranks(name, options, TORCHELASTIC_RESTART_COUNT={0: "1", 1: "1"})
    assert f"{name} goes on at step {step} exactly where it was" in said[0]
    for one in found:
        assert_equal(one["weights"], expected["weights"])


@pytest.mark.slow
def test_a_rank_that_dies_changes_nothing(two: Path) -> None:
    check_death("killed", PPO, 8, 96, torch.load(two / "two-0.pt"))


@pytest.mark.slow
def test_a_rank_with_a_replay_that_dies_changes_nothing() -> None:
    expected, _ = on_ranks("undisturbed", SAC | {"run_dir": "undisturbed"})
    assert_equal(expected[0]["weights"], expected[1]["weights"])
    check_death("killed", SAC, 20, 128, expected[0])


def test_two_ranks_learn_the_same_from_a_batch_of_a_replay() -> None:
    """Their rows have different numbers of steps to learn from, and different weights."""
    names = ["sac", "r2d2"]
    for name in names:
        learner = rank_worker.make(name, 4)
        while not learner.collector.replay.ready:
            learner.collector.collect()
        batch = learner.collector.replay.sample(0.0)
        batch.mask[0, 2:7], batch.weight[:] = False, torch.tensor([1.0, 0.2, 0.5, 0.7])
        torch.save(batch, f"{name}.pt")
    said = start(["learn", json.dumps(names)])
    for name in names:
        one = rank_worker.learn(name)
        two = [torch.load(f"{name}-{rank}-of-2.pt") for rank in range(2)]
        assert len(one["gradients"]) == (2 if name == "sac" else 1), said
        for own, expected in zip(two[0]["gradients"], one["gradients"], strict=True):
            assert (own - expected).norm() < 1e-6 * expected.norm()
        assert two[0]["priority"].max() < two[1]["priority"].max() == 1
        if name == "r2d2":
            assert torch.equal(torch.cat([each["epsilon"] for each in two]), one["epsilon"])
        assert two[0]["metrics"] == two[1]["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
        assert_equal(two[0]["weights"], two[1]["weights"])
        assert_near(one["weights"], two[0]["weights"], 1e-4)


def as_rank(monkeypatch: pytest.MonkeyPatch, number: int, count: int = 2, **more: str) -> None:
    """Set the variables of a rank that torchrun has started."""
    variables = {"RANK": str(number), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    for key, value in (variables | {"MASTER_PORT": "1"} | more).items():
        monkeypatch.setenv(key, value)


ONE = "works in one process only, not on 2 ranks"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_envs": 5}, "num_envs (5) must be divisible by the number of ranks (2)"),
    (
        {"algo": {"name": "amago"}},
        "algo 'amago' trains in one process only, not on 2 ranks (algorithms that do: ppo, pqn, "
        "r2d2, sac)",
    ),
    (
        {"algo": {"name": "ppo", "num_minibatches": 4}},
        "num_minibatches (4) must divide num_envs (2 on each of 2 ranks): a minibatch is a set of "
        "whole rows",
    ),
    ({"record": "data"}, f"record: recording {ONE}"),
    (
        {"algo": {"name": "sac", "replay": {"directory": "there"}}},
        f"algo.replay.directory: a replay in files {ONE}",
    ),
    (
        {"algo": {"name": "sac", "replay": {"batch_size": 3}}},
        "algo.replay.batch_size (3) must be divisible by the number of ranks (2)",
    ),
]


@pytest.mark.parametrize(("options", "line"), REFUSED)
def test_options_for_one_process_are_refused_in_one_line(
    options: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = OmegaConf.create({"algo": {"name": "ppo"}, "num_envs": 4} | options)
    ranks.require(cfg, True, None)  # one process
    as_rank(monkeypatch, 1)
    with pytest.raises(UsageError) as caught:
        ranks.require(cfg, True, None)
    assert str(caught.value) == line


def test_rank_0_prints_an_error_of_all_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = "rlmem: rlmem train -m trains many runs in one process, without torchrun\n"
    for number, line in enumerate([sweep, ""]):
        as_rank(monkeypatch, number)
        assert main(["train", "-m", "seed=1,2"]) == 2
        assert capsys.readouterr().err == line
    assert not list(Path().iterdir())


def test_a_batch_of_environments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0)
    with pytest.raises(UsageError, match="a batch of environments cannot be shared out over 2"):
        rlmem.train(envs.make("memory-chain", num_envs=2), **TINY | {"num_envs": 2})


def test_restarts_need_a_run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0, TORCHELASTIC_MAX_RESTARTS="3")
    cfg = OmegaConf.create({"algo": {"name": "ppo"}, "num_envs": 4})
    ranks.require(cfg, False, None)
    with pytest.raises(UsageError, match=r"torchrun --max-restarts needs run_dir=\.\.\., to find"):
        ranks.require(cfg, True, None)


@pytest.mark.slow
def test_ranks_killed_at_random_moments() -> None:
    script = Path(__file__).parents[2] / "scripts" / "kill_ranks.py"
    command = [sys.executable, str(script), "--moments=2", "--cases=ppo;r2d2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    assert done.stdout.count("| 2 of 2 |") == 2, done.stdout + done.stderr
