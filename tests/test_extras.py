"""rlmem without its extras: agents, cores and kernels work; other parts name the extra."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from gymnasium import spaces

from tests.runs.exported import VECTOR, make_agent

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules of all packages that only an extra installs, and of those that they need.
BLOCKED = (
    *("hydra", "omegaconf", "antlr4", "rich", "tensorboard", "scipy", "matplotlib"),
    *("torchrl", "tensordict", "popgym", "triton", "onnx", "onnxscript", "onnxruntime"),
    *("wandb", "mlflow", "sqlalchemy", "alembic", "moviepy", "imageio", "pygame"),
    *("minigrid", "minari", "mujoco", "dm_control", "metaworld"),
)


def without_extras(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process in which no module of an extra can be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n{program}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


LIGHT = """
import gymnasium as gym, numpy as np, torch
import rlmem
class Task(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(4)
    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}
    def step(self, action):
        return np.zeros(3, np.float32), 2.5, True, False, {}
from rlmem import algos, cores, envs
from rlmem.kernels import linear_scan
agent = rlmem.load(sys.argv[1])
print([int(agent.act(np.full(3, x, np.float32))) for x in (0, 0.5, -1)])
for name in cores.names():
    core = cores.make(name, input_size=4, output_size=4)
    core.scan(torch.randn(2, 5, 4), core.initial_state(2), torch.zeros(2, 5, dtype=torch.bool))
linear_scan(torch.rand(1, 3, 2), torch.rand(1, 3, 2))
print(rlmem.evaluate(agent, Task, episodes=3)["return_mean"])
env = envs.make("popgym-repeat", num_envs=2)
env.reset(0)
agent.export(sys.argv[2])
"""


def test_agents_cores_and_kernels_need_no_extra(tmp_path: Path) -> None:
    agent = make_agent("ppo", VECTOR, spaces.Discrete(4), core="s5")
    agent.save(tmp_path / "agent.rlmem")
    done = without_extras(LIGHT, str(tmp_path / "agent.rlmem"), str(tmp_path / "agent.pt2"))
    assert done.returncode == 0, done.stderr
    actions = [int(agent.act([x] * 3)) for x in (0.0, 0.5, -1.0)]
    assert done.stdout.splitlines() == [str(actions), "2.5"]
    assert (tmp_path / "agent.pt2").stat().st_size


MAIN = "from rlmem.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["train", "--help", "core=gru"]])
def test_help_needs_no_extra(arguments: list[str]) -> None:
    done = without_extras(MAIN, *arguments)
    assert done.returncode == 0, done.stderr


def hint(extra: str) -> str:
    return f"pip install 'rlmem[{extra}]', in a checkout pip install -e '.[{extra}]'"


@pytest.mark.parametrize("command", ["train", "eval", "play", "export"])
def test_commands_name_the_extra(command: str) -> None:
    done = without_extras(MAIN, command, "run=a")
    assert done.returncode == 2
    assert done.stderr == f"rlmem: rlmem {command} needs hydra-core: {hint('train')}\n"


@pytest.mark.by_day(2)
@pytest.mark.parametrize(
    ("code", "what", "extra"),
    [
        ("import rlmem.torchrl", "rlmem.torchrl needs torchrl", "torchrl"),
        ("import rlmem; rlmem.train('popgym-repeat')", "rlmem.train needs hydra-core", "train"),
        (
            "from rlmem import envs; envs.make('popgym-repeat', num_envs=1, backend='package')",
            "env.backend=package needs popgym",
            "popgym",
        ),
        (
            "from rlmem.data.allocation import allocate; allocate({}, 1, None)",
            "the memory of a replay or dataset needs torchrl",
            "train",
        ),
        (
            "import rlmem; rlmem.load(sys.argv[1]).export(sys.argv[1] + '.onnx')",
            "an export to agent.rlmem.onnx needs onnx",
            "onnx",
        ),
    ],
)
def test_parts_name_the_extra(code: str, what: str, extra: str, tmp_path: Path) -> None:
    make_agent("ppo", VECTOR, spaces.Discrete(4)).save(tmp_path / "agent.rlmem")
    done = without_extras(code, str(tmp_path / "agent.rlmem"))
    assert done.stderr.splitlines()[-1].endswith(f"UsageError: {what}: {hint(extra)}")
    assert extra in PROJECT["optional-dependencies"]
