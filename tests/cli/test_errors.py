"""Bad input: one line with the error, exit code 2, and no files written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from omegaconf import DictConfig

from rlmem.cli.main import main
from tests.cli.common import SMALL


@pytest.mark.by_day(2)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("core=ffmm", "unknown core 'ffmm'; did you mean ffm"),
        ("env=popgym-repaet", "unknown env 'popgym-repaet'; did you mean popgym-repeat"),
        ("algo=pppo", "unknown algo 'pppo'; did you mean ppo? (known: "),
        ("policy=dfault", "unknown policy 'dfault'; did you mean default?"),
        ("hydra/sweeper=optuna", "unknown hydra/sweeper 'optuna' (known: basic)"),
        ("cor=gru", "unknown key 'cor'; did you mean core or record?"),
        ("totalsteps=10", "unknown key 'totalsteps'; did you mean total_steps?"),
        ("gamma=0.9", "unknown key 'gamma'; did you mean algo.gamma?"),
        ("core.memory_sze=3", "unknown key of core: 'memory_sze'; did you mean memory_size"),
        ("core.memory_size.x=3", "unknown key of core: 'memory_size.x'; did you mean memory_"),
        ("core=none core.memory_size=3", "unknown key of core: 'memory_size' (known: name)"),
        (
            "-m core=ffm,gru core.memory_siz=3",
            "unknown key of core: 'memory_siz'; did you mean memory_size",
        ),
        ("core", "cannot read 'core': write options as key=value"),
        ("seed=[", "cannot read 'seed=[': "),
        ("seed=${nope}", "Interpolation key 'nope' not found"),
        ("run_dir=${nope.x}/y", "Interpolation key 'nope.x' not found"),
        ("core=gru,ffm", "core=gru,ffm has a comma: add -m for one run per value"),
        ("core=[gru,ffm]", "core must be one name, not [gru,ffm]; for one run per name, add -m"),
        ("algo=[ppo]", "algo must be one name, not [ppo]"),
        ("env={a:1}", "env must be one name, not {a:1}"),
        ("+core=[gru]", "core must be one name, not [gru]"),
        ("tuned=[none]", "tuned must be one name, not [none]"),
        ("experiment=[foo]", "experiment must be one name, not [foo]"),
        ("lr=0.1", "unknown key 'lr'; did you mean algo.learning_rate?"),
        ("algo.lr=0.1", "unknown key of algo: 'lr'; did you mean learning_rate?"),
        ("envs=3", "unknown key 'envs'; did you mean num_envs?"),
        ("Total-Steps=3", "unknown key 'Total-Steps'; did you mean total_steps?"),
        ("alg.gamma=1", "unknown key 'alg.gamma'; did you mean algo.gamma or "),
        ("core=null", "core needs a name"),
        ("+core=gru", "core already has a value: write core=NAME once, without +"),
        ("~seed", "~seed: an option cannot be removed, only changed"),
        ("~algo", "~algo: an option cannot be removed, only changed"),
        ("num_envs=-3", "num_envs must be at least 1, not -3"),
        ("num_envs=0", "num_envs must be at least 1, not 0"),
        ("hidden_size=abc", "hidden_size must be an integer, not 'abc'"),
        ("hidden_size=null", "hidden_size must be an integer, not null"),
        ("total_steps=1.5", "total_steps must be an integer, not 1.5"),
        ("layers=true", "layers must be an integer, not True"),
        ("threads=-1", "threads must be at least 1, not -1"),
        ("checkpoint_every=often", "checkpoint_every must be a number of steps, a percentage"),
        ("seed=-1", "seed must not be negative, not -1"),
        ("algo.num_epochs=-2", "algo.num_epochs must not be negative, not -2"),
        ("algo.gamma=high", "algo.gamma must be a number, not 'high'"),
        ("algo.anneal_lr=1", "algo.anneal_lr must be true or false, not 1"),
        ("core.memory_size=[1,2]", "core.memory_size must be an integer, not [1, 2]"),
        ("device=[cpu]", "device must be text, not ['cpu']"),
        ("--foo", "unrecognized arguments: --foo (see rlmem train --help)"),
        ("-m --cfg job", "argument --cfg/-c: not allowed with argument --multirun/-m"),
        ("--cfg nonsense", "argument --cfg/-c: invalid choice: 'nonsense'"),
        ("--config-dir nowhere", "Additional config directory"),
        ("resume=nowhere", "nowhere is not a run folder: it does not exist"),
        ("-m run_dir=x seed=1", "run_dir is one folder for many runs"),
    ],
)
def test_bad_options_of_train(
    arguments: str,
    message: str,
    error_line: Callable[..., str],
    trained: list[DictConfig],
    tmp_path: Path,
) -> None:
    assert message in error_line("train", *arguments.split(" "))
    assert trained == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("env.difficulty=impossible", "'impossible'"),
        ("algo.num_minibatches=3", "num_minibatches (3) must divide num_envs (4)"),
        ("core.memory_size=0", "memory_size must be"),
        (
            "algo=pqn env=popgym-position-only-pendulum",
            "algo 'pqn' does not fit this environment: it needs discrete actions, at most 4096 "
            "joint ones, and its actions are Box(-2.0, 2.0, (1,), float32) (algorithms that fit: ",
        ),
        ("device=tpu", "unknown device 'tpu' (allowed: auto, cpu, cuda, cuda:N)"),
        ("device=mps", "unknown device 'mps' (allowed: auto, cpu, cuda, cuda:N)"),
        ("device=meta", "unknown device 'meta' (allowed: auto, cpu, cuda, cuda:N)"),
        ("device=xla:0", "unknown device 'xla:0' (allowed: auto, cpu, cuda, cuda:N)"),
        ("device=0", "unknown device '0' (allowed: auto, cpu, cuda, cuda:N)"),
        ("device=''", "unknown device '' (allowed: auto, cpu, cuda, cuda:N)"),
        ("device=cuda:99", "cuda"),
        ("env=gym env.id=CarPole-v1", "unknown Gymnasium id 'CarPole-v1'; did you mean CartPole"),
        ("env=gym +env.colour=red", "unknown option of env 'gym': 'colour'"),
    ],
)
def test_options_rejected_by_environment_core_or_algorithm(
    arguments: str, message: str, error_line: Callable[..., str], tmp_path: Path
) -> None:
    assert message in error_line("train", *SMALL, *arguments.split(" "))
    assert not (tmp_path / "runs").exists()


class _Speaker(gym.Env):
    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Text(3)

    def reset(self, **_: object) -> tuple[int, dict[str, Any]]:
        return 0, {}


def test_an_unsupported_action_space_is_reported(
    monkeypatch: pytest.MonkeyPatch, error_line: Callable[..., str]
) -> None:
    spec = gym.envs.registration.EnvSpec("Speaker-v0", _Speaker)
    monkeypatch.setitem(gym.registry, "Speaker-v0", spec)
    line = error_line("train", *SMALL, "env=gym", "env.id=Speaker-v0")
    assert "action" in line
    assert "Text(" in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "rlmem eval needs run=<dir>"),
        ("run=nowhere", "nowhere is neither a run folder nor an agent file"),
        ("run=.", "is not a run folder: it has no config.yaml"),
        ("run=nowhere episodes=0", "episodes must be at least 1, not 0"),
        (
            "run=nowhere deterministic=maybe",
            "deterministic must be true, false or null, not 'maybe'",
        ),
        ("run=nowhere seed=x", "seed must be an integer, not 'x'"),
        ("run=nowhere seed=-2", "seed must not be negative, not -2"),
        (
            "run=nowhere episode=3",
            "unknown key 'episode'; did you mean episodes or trial_episodes?",
        ),
        ("runs/a", "cannot read 'runs/a': write options as key=value"),
    ],
)
def test_bad_options_of_eval(arguments: str, message: str, error_line: Callable[..., str]) -> None:
    assert message in error_line("eval", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "missing command: train, eval, play, show, check, export, bench, tune, compare"),
        ("trian", "unknown command 'trian'; did you mean train?"),
        ("help trian", "unknown command 'trian'; did you mean train?"),
        ("train --help core=ffmm", "unknown core 'ffmm'; did you mean ffm"),
        ("train --help -m core=gru,ffmm", "unknown core 'ffmm'; did you mean ffm"),
        ("train --help env=popgym-repaet", "unknown env 'popgym-repaet'; did you mean popgym-rep"),
        ("train --help algo=pppo", "unknown algo 'pppo'; did you mean ppo? (known: "),
        ("train --help tuned=nope", "unknown tuned 'nope'; did you mean none? (known: meta-bandit"),
        ("train --help experiment=x", "unknown experiment 'x' (known: in-context, quick-repeat)"),
        ("train --help cor=gru", "unknown key 'cor'; did you mean core or record?"),
        ("train --help lr=1", "unknown key 'lr'; did you mean algo.learning_rate?"),
        ("train --help core=none core.size=3", "unknown key of core: 'size' (known: name)"),
        ("play --help core=gru", "unknown key 'core'"),
        ("train --shell-completion install=bash", "unrecognized arguments: --shell-completion"),
        ("core=ffm", "unknown command 'core=ffm'"),
        ("list core", "unknown list 'core'; did you mean cores"),
        ("show -m env=a,b", "rlmem show takes one value for each option, without -m"),
    ],
)
def test_bad_commands(arguments: str, message: str, error_line: Callable[..., str]) -> None:
    assert message in error_line(*arguments.split())


def test_other_exceptions_are_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cfg: DictConfig, unique: bool) -> float:
        raise RuntimeError("a bug")

    monkeypatch.setattr("rlmem.runs.train.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train"])
