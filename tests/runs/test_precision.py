"""Training with precision=bf16: every core and algorithm, near float32, resumable."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import rlmem
from rlmem import algos, cores, envs, tree
from rlmem.algos.ppo import PPO
from rlmem.cli.completion import complete
from rlmem.cli.main import COMMANDS
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic
from rlmem.runs import checkpoint, precision

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"hidden_size": 16, "num_envs": 4, "eval_episodes": 2, "core": "gru"}
TINY |= {"log.tensorboard": False, "log.progress": False, "total_steps": 192, "device": "cpu"}
ROWS = {"algo.num_steps": 12, "algo.num_minibatches": 1}
REPLAY = {"algo.learning_starts": 32, "algo.replay.capacity": 512, "algo.replay.length": 6}
REPLAY |= {"algo.replay.batch_size": 4, "algo.replay.burn_in": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": ROWS,
    "pqn": ROWS,
    "r2d2": REPLAY,
    "sac": REPLAY,
    "amago": {"algo.learning_starts": 32, "total_steps": 640},
    "dt": {"algo.length": 8, "algo.batch_size": 4, "algo.num_updates": 2},
    "ad": {"algo.length": 8, "algo.batch_size": 4, "algo.num_updates": 2},
}
SLOW = dict.fromkeys(("ad", "amago", "dt", "r2d2"), pytest.mark.slow)
_can = precision._multiplies_bf16(CPU)
needs_bf16 = pytest.mark.skipif(not _can, reason="this CPU has no instructions for bfloat16")


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def updated(core: str, name: str) -> tuple[PPO, dict[str, float]]:
    """PPO after one update of one minibatch, and its metrics."""
    torch.manual_seed(0)
    env = envs.make("popgym-repeat", num_envs=4)
    options = {"core": core, "hidden_size": 16}
    policy = ActorCritic(env.observation_space, env.action_space, **options)
    sizes = {"num_steps": 12, "num_epochs": 1, "num_minibatches": 1}
    algo = algos.make("ppo", env=env, policy=policy, seed=list(range(4)), **sizes)
    assert isinstance(algo, PPO)
    with precision.context(name, CPU):
        return algo, algo.iterate(0.0)


@pytest.mark.parametrize("core", [name for name in cores.names() if name != "stack"])
def test_an_update_of_every_core_is_near_that_in_float32(core: str) -> None:
    wide, want = updated(core, "fp32")
    narrow, got = updated(core, "bf16")
    assert torch.equal(wide.collector.rollout.log_prob, narrow.collector.rollout.log_prob)
    for leaf in tree.leaves(narrow.collector.state):
        assert leaf.dtype in (torch.float32, torch.complex64, torch.int64, torch.bool)
    for one, other in zip(narrow.policy.parameters(), wide.policy.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert one.isfinite().all()
        assert one.grad is None or one.grad.dtype == torch.float32
        assert one.shape == other.shape
    assert got["value_loss"] == pytest.approx(want["value_loss"], rel=0.03)
    assert got["grad_norm"] == pytest.approx(want["grad_norm"], rel=0.1)
    assert got["entropy"] == pytest.approx(want["entropy"], rel=0.01)
    assert abs(got["approx_kl"]) < 1e-3
    # Products were rounded.
    assert got["value_loss"] != want["value_loss"]


@needs_bf16
@pytest.mark.parametrize(
    "algo", [pytest.param(each, marks=SLOW.get(each, ())) for each in sorted(OPTIONS)]
)
def test_every_algorithm_trains(algo: str) -> None:
    options = TINY | OPTIONS[algo]
    if algo in ("dt", "ad"):
        recorded = TINY | ROWS | {"total_steps": 960, "record": "data", "run_dir": "source"}
        rlmem.train("popgym-repeat", algo="ppo", **recorded)
        options["algo.dataset"] = "data"
    result = rlmem.train("popgym-repeat", algo=algo, precision="bf16", run_dir="run", **options)
    with Path("run/metrics.csv").open(newline="") as file:
        losses = [
            float(value)
            for row in csv.DictReader(file)
            for key, value in row.items()
            if "loss" in key and value
        ]
    assert losses
    assert all(abs(each) < 1e4 for each in losses)
    for weight in checkpoint.load(result.run_dir).weights.values():
        assert weight.dtype not in (torch.bfloat16, torch.float16)
    assert OmegaConf.load("run/config.yaml").precision == "bf16"


class Watched:
    """A batch of environments that notes whether it steps under autocast."""

    def __init__(self) -> None:
        self.env = envs.make("popgym-repeat", num_envs=4)
        self.num_envs, self.device = self.env.num_envs, self.env.device
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space
        self.autocast: set[bool] = set()

    def reset(self, seed: int | Sequence[int] | None = None) -> Any:
        return self.env.reset(seed)

    def step(self, action: Any) -> Any:
        self.autocast.add(torch.is_autocast_enabled("cpu"))
        return self.env.step(action)


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_acting_is_in_float32_and_learning_under_autocast(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, learning, backward = Watched(), set(), set()
    needs = algos.requirements(name)
    policy = needs.policy_type(env.observation_space, env.action_space, hidden_size=16)
    sizes: dict[str, Any] = {"num_steps": 8}
    sizes |= {"num_minibatches": 1} if name == "ppo" else {"learning_starts": 8, "num_updates": 1}
    if name == "sac":
        sizes["replay"] = {"capacity": 128, "length": 2, "batch_size": 2, "burn_in": 0, "stride": 1}
    algo = algos.make(name, env=env, policy=policy, seed=list(range(4)), **sizes)
    scan, run = policy.core.scan, torch.Tensor.backward

    def watched_scan(*arguments: Any) -> Any:
        learning.add(torch.is_autocast_enabled("cpu"))
        return scan(*arguments)

    def watched_backward(self: torch.Tensor, *arguments: Any) -> None:
        backward.add(torch.is_autocast_enabled("cpu"))
        run(self, *arguments)

    monkeypatch.setattr(policy.core, "scan", watched_scan)
    monkeypatch.setattr(torch.Tensor, "backward", watched_backward)
    with precision.context("bf16", CPU):
        algo.iterate(0.0)
    assert (env.autocast, learning, backward) == ({False}, {True}, {False})
    assert not torch.is_autocast_enabled("cpu")


@needs_bf16
def test_a_resumed_run_is_exact_or_names_the_other_precision(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = TINY | ROWS | {"precision": "bf16", "checkpoint_every": 96, "checkpoint_keep": 9}
    rlmem.train("popgym-repeat", run_dir="whole", **options)
    # Its own target: the step size falls with the number of steps.
    stopped = options | {"total_steps": 192, "algo.anneal_lr": False}
    rlmem.train("popgym-repeat", run_dir="one", **stopped)
    rlmem.train("popgym-repeat", run_dir="two", **stopped | {"total_steps": 96})
    capsys.readouterr()
    rlmem.train(resume="two", total_steps=192)
    assert "goes on at step 96 exactly where it was\n" in capsys.readouterr().err
    one, two = (checkpoint.load(each).weights for each in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    rlmem.train(resume="two", total_steps=288, precision="fp32")
    error = capsys.readouterr().err
    assert "exactly where it was (but for rounding: it had precision bf16, not fp32)" in error
    assert OmegaConf.load("two/config.yaml").precision == "fp32"


def test_a_run_of_an_older_version_is_in_float32() -> None:
    assert precision.of(OmegaConf.create({"device": "cpu"})) == "fp32"


def test_wrong_precisions_and_devices_without_it_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match=r"unknown precision 'bf61'.*bf16, fp32|fp32, bf16"):
        rlmem.train("popgym-repeat", run_dir="run", precision="bf61", **TINY | ROWS)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    message = r"precision=bf16 .* this CPU has neither AVX512-BF16 nor AMX; give precision=fp32"
    with pytest.raises(UsageError, match=message):
        rlmem.train("popgym-repeat", run_dir="run", precision="bf16", **TINY | ROWS)
    assert not Path("run").exists()


def test_the_shell_completes_it() -> None:
    assert complete(["train", "precision="], COMMANDS) == ["precision=bf16", "precision=fp32"]
