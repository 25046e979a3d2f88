"""`rlmem.train` from Python: the command line's run folder, any environment, a host program."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import hydra
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import rlmem
from rlmem import envs
from rlmem.cli.from_python import encode, flatten
from rlmem.cli.main import main
from rlmem.envs.gym_vector import GymnasiumVectorEnv
from rlmem.errors import UsageError
from rlmem.runs import checkpoint
from tests.cli.common import ROOT, SMALL, python

SIZES: dict[str, Any] = {
    "threads": 1,
    "num_envs": 4,
    "hidden_size": 8,
    "total_steps": 256,
    "eval_episodes": 2,
    "algo": {"num_steps": 32, "num_minibatches": 2},
    "log": {"tensorboard": False},
}


class Signal(gym.Env[Any, Any]):
    """A bit is shown once; the last action must equal it."""

    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bit, self.time = int(self.np_random.integers(2)), 0
        return self.bit, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time == self.length
        return 2, float(over and action == self.bit), over, False, {}


def test_python_leaves_the_folder_of_the_command_line() -> None:
    assert main(["train", *SMALL, "core=gru", "seed=3", "run_dir=a"]) == 0
    result = rlmem.train("popgym-repeat", core="gru", run_dir="b", seed=3, **SIZES)
    names = [{path.relative_to(run) for path in Path(run).rglob("*")} for run in "ab"]
    assert names[0] == names[1]
    one, other = (Path(run, "config.yaml").read_text().partition("# sha256")[0] for run in "ab")
    assert one == other.replace("run_dir: b", "run_dir: a")
    for name in ("agent.json", "eval.json"):
        assert Path("a", name).read_text() == Path("b", name).read_text()
    one, other = (checkpoint.load(run).weights for run in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert (result.step, str(result.run_dir), result.stopped) == (256, "b", None)
    assert result.returns == json.loads(Path("b/eval.json").read_text())["returns"]
    assert result.return_mean == pytest.approx(np.mean(result.returns))
    assert result.memory_score == pytest.approx((result.return_mean + 0.49) / 1.49)
    assert result.metrics["step"] == [128, 256]
    assert result.evaluations == {}


def test_the_result_has_the_trained_agent() -> None:
    agent = rlmem.train("popgym-repeat", core="gru", run_dir="a", **SIZES).agent
    loaded = rlmem.load("a")
    for _ in range(20):
        obs = int(torch.randint(4, ()))
        assert agent.value(obs) == loaded.value(obs)
        assert agent.act(obs) == loaded.act(obs)


def test_the_command_line_takes_over_a_run_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    rlmem.train(Signal, core="gru", run_dir="a", **SIZES)
    cfg = OmegaConf.load("a/config.yaml")
    assert cfg.env.id == "tests.cli.test_from_python:Signal"
    evaluated = json.loads(Path("a/eval.json").read_text())["returns"]
    sys.path.append(str(ROOT))
    assert main(["eval", "run=a", "episodes=2", "trust=true"]) == 0
    assert json.loads(Path("a/eval.json").read_text())["returns"] == evaluated
    assert main(["play", "run=a", "trust=true"]) == 0
    assert main(["train", "resume=a", "total_steps=384", "trust=true"]) == 0
    assert checkpoint.steps("a")[-1] == 384
    assert rlmem.train(resume="a", total_steps=512, trust=True).step == 512


def makers() -> dict[str, tuple[Any, str]]:
    """Environments of every kind that is made in Python, and their ids in the configuration."""
    same = SyncVectorEnv([Signal] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    return {
        "class": (Signal, "tests.cli.test_from_python:Signal"),
        "function": (lambda: Signal(3), "object:"),
        "sync": (SyncVectorEnv([Signal] * 4), "tests.cli.test_from_python:Signal"),
        "different": (SyncVectorEnv([lambda: Signal(3), Signal] * 2), "object:4 functions"),
        "vector": (RecordEpisodeStatistics(same), "object:RecordEpisodeStatistics"),
        "batch": (envs.make("popgym-repeat", num_envs=4), "object:RepeatPrevious"),
        "trials": (envs.make("meta-bandit", num_envs=4, episodes=8), "object:Trials"),
        "ours": (GymnasiumVectorEnv("popgym-repeat", num_envs=4), "object:RepeatPrevious"),
    }


@pytest.mark.by_day(2)
@pytest.mark.parametrize("kind", makers())
def test_environments_that_are_objects(kind: str) -> None:
    env, place = makers()[kind]
    result = rlmem.train(env, core="gru", run_dir="a", **SIZES)
    cfg = OmegaConf.load("a/config.yaml")
    assert cfg.env.name == "gym"
    assert cfg.env.id.startswith(place)
    assert rlmem.train(env, resume="a", total_steps=384).step == 384
    evaluated = rlmem.evaluate(rlmem.load("a"), env, episodes=6)
    assert len(evaluated["returns"]) == 6
    assert result.agent.spec == rlmem.load("a").spec
    if place.startswith("object:"):
        with pytest.raises(UsageError, match=r"was given in Python, as .*: give it again"):
            rlmem.train(resume="a", total_steps=512)


def test_options_of_an_environment_that_is_an_object() -> None:
    env = {"name": Signal, "max_episode_steps": 4, "kwargs": {"length": 9}}
    result = rlmem.train(env, core="gru", run_dir="a", **SIZES)
    cfg = OmegaConf.load("a/config.yaml")
    assert (cfg.env.max_episode_steps, cfg.env.kwargs) == (4, {"length": 9})
    assert set(result.metrics["episode_length"]) == {4.0}


def test_nested_and_dotted_options_are_the_same() -> None:
    nested = {"algo": {"name": "sac", "gamma": 0.5, "replay": {"length": 8}}, "seed": 1}
    dotted = {"algo.name": "sac", "algo.gamma": 0.5, "algo.replay": {"length": 8}, "seed": 1}
    wanted = {"algo": "sac", "algo.gamma": 0.5, "algo.replay.length": 8, "seed": 1}
    assert flatten(nested) == flatten(dotted) == wanted
    with pytest.raises(UsageError, match=r"algo is given twice: 'ppo' and 'sac'"):
        flatten({"algo": "ppo", **{"algo.name": "sac"}})


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(st.from_regex(r"[A-Za-z_][0-9a-z_]*", fullmatch=True), part, max_size=3)
    ),
)


@given(VALUES)
def test_hydra_reads_the_values_that_were_given(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"key={encode('key', value)}")
    assert plain(override.value()) == value


def plain(value: Any) -> Any:
    """The value without Hydra's class for text in quotes."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    return value


BATCH = envs.make("popgym-repeat", num_envs=4)


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        (Signal(), {}, r"env is one Signal, .* give its class, or a function \(env=lambda: Signal"),
        (7, {}, "env must be a name, a class or function that makes a Gymnasium environment"),
        ("popgym-repaet", {}, "unknown env 'popgym-repaet'; did you mean popgym-repeat"),
        ("CartPol-v1", {}, "unknown Gymnasium id 'CartPol-v1'; did you mean CartPole-v1"),
        (Signal, {"core": "gruu"}, "unknown core 'gruu'; did you mean gru"),
        (
            Signal,
            {"learning_rate": 1e-3},
            "unknown key 'learning_rate'; did you mean algo.learning",
        ),
        (Signal, {"algo": {"gama": 1}}, "unknown key of algo: 'gama'; did you mean gamma"),
        (Signal, {"total_steps": "many"}, "total_steps must be an integer, not 'many'"),
        (Signal, {"seed": object()}, "seed must be a number, text, .* not object"),
        (Signal, {"env.kwargs.rules": object()}, r"env=lambda: MyEnv\(...\) can hold any object"),
        (Signal, {"env.kwargs.size": 1}, "unknown option of .*: 'size' .known: length"),
        (Signal, {"a b": 1}, "unknown key 'a b'"),
        (Signal, {"callbacks": rlmem.Callback()}, "callbacks must be a list, not Callback"),
        (Signal, {"callbacks": [print]}, "classes derived from rlmem.Callback, not builtin_fun"),
        (Signal, {"callbacks": [rlmem.Callback]}, "Callback .a class: write its name with paren"),
        (BATCH, {"env.difficulty": "hard"}, "env.difficulty: options of env go with a name"),
        (BATCH, {"num_envs": 8}, "num_envs is 8, and the batch has 4 environments"),
        (BATCH, {"eval_every": "50%"}, "eval_every would disturb the batch"),
        (Signal, {"eval_env": "popgym-repeat"}, "give a class or function, or rlmem.envs.make"),
        (Signal, {"run_dir": "b", "resume": "b"}, "b is not a run folder: it does not exist"),
    ],
)
def test_bad_input_is_one_line(env: Any, options: dict[str, Any], message: str) -> None:
    sizes = {key: value for key, value in SIZES.items() if key not in options}
    with pytest.raises(UsageError, match=message) as caught:
        rlmem.train(env, **sizes, **options)
    assert "\n" not in str(caught.value)


def test_a_taken_folder_is_refused_and_a_default_one_gets_a_number() -> None:
    one, other = (rlmem.train(Signal, core="gru", **SIZES).run_dir for _ in range(2))
    assert one != other
    with pytest.raises(UsageError, match="already holds a run"):
        rlmem.train(Signal, core="gru", run_dir=one, **SIZES)


def test_training_in_a_thread_leaves_signals_alone() -> None:
    before, results = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        results.append(rlmem.train(Signal, core="gru", run_dir="a", **SIZES))

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        assert signal.getsignal(signal.SIGINT) is before
        thread.join(0.01)
    assert results[0].step == 256


class Interrupting(rlmem.Callback):
    """Presses Ctrl-C after the first iteration."""

    def on_iteration(self, training: rlmem.Training, metrics: Any) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_saves_and_restores_the_handlers() -> None:
    before, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    place = r"saved a/checkpoints/step-000000128; resume with: rlmem.train\(resume='a'\)"
    options = SIZES | {"total_steps": 1000, "threads": 2}
    with pytest.raises(KeyboardInterrupt, match=place):
        rlmem.train(Signal, core="gru", run_dir="a", callbacks=[Interrupting()], **options)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.get_num_threads() == threads
    assert rlmem.train(resume="a", env=Signal, total_steps=256).step == 256


def test_a_program_around_it_may_use_hydra_for_itself(tmp_path: Path) -> None:
    (tmp_path / "program.yaml").write_text("lr: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        mine = GlobalHydra.instance().hydra
        rlmem.train(Signal, core="gru", run_dir="a", **SIZES)
        with pytest.raises(UsageError, match="unknown core"):
            rlmem.train(core="gruu")
        assert GlobalHydra.instance().hydra is mine
        assert hydra.compose("program", ["lr=3"]) == {"lr": 3}
        assert not HydraConfig.initialized()


SCRIPT = """\
import gymnasium as gym
import rlmem


class Task(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, {}

    def step(self, action):
        self.time += 1
        return 1, float(action), self.time == 4, False, {}
"""
TRAIN = f"rlmem.train(Task, core='gru', run_dir='a', **{SIZES!r})\n"


@pytest.mark.parametrize("guarded", [True, False])
def test_the_class_of_a_script_is_found_again(guarded: bool) -> None:
    guard = "if __name__ == '__main__':\n    " if guarded else ""
    Path("my script.py").write_text(f"{SCRIPT}\n\n{guard}{TRAIN}")
    done = python("my script.py")
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert out.endswith("; next: rlmem play run=a trust=true\n")
    assert OmegaConf.load("a/config.yaml").env.id == "my script.py:Task"
    evaluated = python("-m", "rlmem", "eval", "run=a", "episodes=2", "trust=true")
    out, err = evaluated.communicate(timeout=120)
    assert evaluated.returncode == (0 if guarded else 2), err
    if guarded:
        assert json.loads(out)["episodes"] == 2
    else:
        assert "my script trains while it is imported for its environment" in err
        assert err.count("\n") == 1
