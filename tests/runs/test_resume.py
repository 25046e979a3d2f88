"""Resumed runs with other options: seeds, numbers of environments, replays, datasets, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from rlmem.cli.main import main
from rlmem.envs.seeding import eval_seeds, train_seeds
from rlmem.errors import UsageError
from rlmem.runs import build, checkpoint, manifest
from tests.marks import by_night

SMALL = ["threads=1", "num_envs=4", "hidden_size=8", "core=gru", "eval_episodes=1"]
SMALL += ["env=memory-chain", "env.length=4"]
SMALL += ["log.tensorboard=false", "log.progress=false"]
ON_POLICY = ["algo.num_steps=8", "algo.num_minibatches=1"]
OFF_POLICY = ["algo.num_steps=8", "algo.num_updates=1", "algo.learning_starts=100"]


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """For each start of a run: the number of seeds it skipped, and its own seeds."""
    found: list[tuple[int, list[int]]] = []

    def spy(seed: int, n: int, used: int = 0) -> list[int]:
        found.append((used, train_seeds(seed, n, used)))
        return found[-1][1]

    monkeypatch.setattr(build, "train_seeds", spy)
    return found


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Resumes the run `a`, which fails; returns the only line of output."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["train", "resume=a", *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err.removeprefix("rlmem: ").rstrip()

    return run


def train(*arguments: str) -> None:
    assert main(["train", *arguments]) == 0


def test_no_seed_is_used_twice(seeds: list[tuple[int, list[int]]]) -> None:
    train(*SMALL, *ON_POLICY, "total_steps=64", "run_dir=a")
    for num_envs, total in ((4, 96), (2, 112), (8, 176)):
        train("resume=a", f"num_envs={num_envs}", f"total_steps={total}")
    # The first resumed run goes on in the episodes of the run, and uses no seeds.
    assert [len(own) for _, own in seeds] == [4, 4, 2, 8]
    # The cost of the seeds does not depend on the steps: only those before are skipped.
    assert [skipped for skipped, _ in seeds] == [0, 4, 4, 6]
    del seeds[1]
    every = [seed for _, own in seeds for seed in own]
    assert len(set(every)) == 14
    assert every[:4] == train_seeds(0, 4)
    assert not set(every) & set(eval_seeds(0, 10_000))


def test_another_number_of_environments_without_a_replay() -> None:
    train("algo=pqn", *SMALL, *ON_POLICY, "total_steps=64", "run_dir=a")
    train("resume=a", "num_envs=7", "total_steps=120")
    assert checkpoint.steps("a")[-1] == 120


def test_a_run_of_many_steps_resumes_at_once(seeds: list[tuple[int, list[int]]]) -> None:
    train(*SMALL, *ON_POLICY, "total_steps=64", "run_dir=a")
    many = checkpoint.find("a").rename("a/checkpoints/step-1000000000000")
    saved = manifest.read(many)
    assert saved is not None
    (many / manifest.FILE).unlink()
    saved._replace(step=10**12).write(many)
    train("resume=a", "total_steps=1000000000032")
    assert seeds[1] == (4, train_seeds(0, 8)[4:])


def test_a_checkpoint_without_the_number_of_seeds_skips_those_of_a_run() -> None:
    old = checkpoint.Checkpoint(Path("a"), 10, {}, {"algo": {}})
    assert old.seeds_used(num_envs=6) == 6


def test_a_replay_resumes_with_the_options_of_its_own_algorithm(
    refused: Callable[..., str],
) -> None:
    train("algo=amago", *SMALL, *OFF_POLICY, "total_steps=256", "run_dir=a",
          "algo.replay.capacity=200", "algo.replay.length=20")  # fmt: skip
    before = replay("a")
    assert before["head"].min() > 40  # entries for each environment: two strides
    train("resume=a", "algo.replay.capacity=2000", "total_steps=288")
    assert OmegaConf.load("a/config.yaml").algo.replay.capacity == 2000
    after = replay("a")
    assert torch.equal(after["oldest"], before["oldest"])
    for env in range(4):
        for entry in range(int(before["oldest"][env]), int(before["head"][env])):
            for name in ("obs0", "reward"):
                moved = after["leaves"][name][env, entry]
                assert torch.equal(moved, before["leaves"][name][env, entry % 40])
    assert refused("algo.replay.capcity=9").startswith(
        "unknown key of algo: 'replay.capcity'; did you mean replay.capacity"
    )
    assert refused("num_envs=8", "total_steps=999") == (
        "the replay of this run holds the steps of 4 environments: resume with num_envs=4"
    )
    for change in ("algo=sac", "algo.name=sac"):
        assert "was trained with algo=amago, which cannot be changed" in refused(change)
    for change in ("tuned=none", "experiment=in-context"):
        assert "a resumed run has its own settings" in refused(change)


def replay(run: str) -> dict[str, Any]:
    storage: dict[str, Any] = checkpoint.load(run).trainer["algo"]["replay"]["storage"]
    return storage


@pytest.mark.parametrize(("algo", "in_files"), [("sac", True), ("r2d2", False), ("amago", False)])
def test_each_batching_can_follow_another(algo: str, in_files: bool) -> None:
    place = "algo.replay.directory=" + ("a/files" if in_files else "null")
    train(f"algo={algo}", *SMALL, *OFF_POLICY, "total_steps=256", "run_dir=a", place,
          "algo.replay.capacity=4000", "algo.replay.length=10", "algo.replay.burn_in=0",
          "algo.replay.batching=tape", "algo.replay.stored_state=false")  # fmt: skip
    for number, batching in enumerate(("segments", "trajectory"), start=1):
        train("resume=a", f"algo.replay.batching={batching}", f"total_steps={256 + 64 * number}")
    assert all(leaf.isfinite().all() for leaf in checkpoint.load("a").weights.values())


@pytest.mark.parametrize("algo", ["dt", *by_night(["ad"])])
def test_an_algorithm_of_recorded_steps_resumes_with_another_dataset(algo: str) -> None:
    for seed in (0, 1):
        train(*SMALL, *ON_POLICY, f"seed={seed}", "total_steps=256", f"run_dir=run{seed}",
              f"record=data{seed}")  # fmt: skip
    train(f"algo={algo}", *SMALL, "total_steps=160", "run_dir=a", "algo.dataset=data0",
          "algo.batch_size=2", "algo.length=8")  # fmt: skip
    scale = weights("a").get("return_scale")
    train("resume=a", "algo.dataset=data1", "total_steps=320")
    if algo == "dt":
        train("resume=a", "algo.target_return=0.25", "total_steps=480")
        # The target is new; the unit of returns is the one that the policy was trained with.
        assert weights("a")["target_return"] == 0.25
        assert torch.equal(weights("a")["return_scale"], scale)


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.find(run) / "model.safetensors")


def test_the_state_of_another_algorithm_is_refused_in_one_line() -> None:
    train(*SMALL, *ON_POLICY, "total_steps=64", "run_dir=a")
    saved = checkpoint.load("a")
    _, _, algo = build.build(build.load_config("a"))
    optimizer = saved.trainer["algo"]["optimizer"]
    few = {**optimizer, "param_groups": [{**optimizer["param_groups"][0], "params": [0]}]}
    moments = {k: {**v, "exp_avg": v["exp_avg"][..., :1]} for k, v in optimizer["state"].items()}
    for state, reason in (
        ({}, "it has no 'optimizer'"),
        ({"optimizer": few}, "parameter group"),
        ({"optimizer": {**optimizer, "state": moments}}, "a moment of shape"),
        ({"optimizer": 3}, "does not fit"),
    ):
        bad = saved._replace(trainer={"algo": state})
        with pytest.raises(UsageError, match=reason) as error:
            bad.load_trainer(algo)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="it has no 'algo'"):
        saved._replace(trainer={}).load_trainer(algo)
