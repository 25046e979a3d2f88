"""Environments by id, in modules and in files, in this process and in others; their options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from rlmem import envs
from rlmem.errors import UsageError

SOURCE = """
import gymnasium
import numpy as np

class {name}(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, ())
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size=3, sign=1):
        self.size, self.sign = size, sign

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.float32(0), {{}}

    def step(self, action):
        self.time += 1
        return np.float32(self.sign * self.time), 1.0, self.time == self.size, False, {{}}

def make_negative(size=3):
    return {name}(size, sign=-1)

gymnasium.register("{name}-v0", {name}, max_episode_steps=2)
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a new module in the current folder, which is not on the path."""
    name = f"warehouse_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE.format(name="Warehouse"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".", str(tmp_path))])
    yield name
    gym.registry.pop("Warehouse-v0", None)


def observations(vectorization: str, **options: Any) -> list[float]:
    """Final observations of two episodes, one of two environments."""
    env = envs.make("gym", num_envs=2, vectorization=vectorization, **options)
    env.reset(0)
    found: list[float] = []
    while len(found) < 2:
        step = env.step({"action": torch.tensor([0, 1])})
        found += step.final_obs["obs"][:1][step.done[:1]].tolist()
    env.close()
    return found


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("id", "kwargs", "last"),
    [
        ("{}:Warehouse-v0", {}, 2.0),
        ("{}:Warehouse", {}, 3.0),
        ("{}:make_negative", {"size": 4}, -4.0),
        ("./{}.py:Warehouse", {"size": 5, "sign": -1}, -5.0),
        ("{}.py:make_negative", {}, -3.0),
        ("../{folder}/{}.py:Warehouse-v0", {"size": 1}, 1.0),
    ],
)
def test_environments_in_the_current_folder(
    id: str, kwargs: dict[str, Any], last: float, vectorization: str, source: str
) -> None:
    found = id.format(source, folder=Path.cwd().name)
    assert observations(vectorization, id=found, kwargs=kwargs) == [last, last]


def test_a_time_limit_is_added_to_a_class_in_a_file(source: str) -> None:
    env = envs.make("gym", num_envs=1, id=f"{source}.py:Warehouse", max_episode_steps=2)
    env.reset(0)
    steps = [env.step({"action": torch.tensor([0])}) for _ in range(2)]
    assert [step.truncated.item() for step in steps] == [False, True]


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("{}.py", "lacks the name in the file: write {}.py:NAME"),
        ("{}.py:Warehose", "did you mean Warehouse"),
        ("{}:Warehose-v0", "did you mean Warehouse"),
        ("nowhere.py:Warehouse", "there is no file 'nowhere.py'"),
        ("nowhere:Warehouse", "cannot import 'nowhere': no such module, also not in this folder"),
        ("random.py:Warehouse", "cannot be imported, since 'random' is also "),
        ("broken.py:Warehouse", "cannot import 'broken.py': NameError: name 'nme' is not defined"),
        ("broken:Warehouse", r"NameError: .* \(broken.py, line 2\)"),
        ("cartpole-v1", "did you mean CartPole-v1"),
        ("FrozenLak", "did you mean FrozenLake"),
    ],
)
def test_unknown_environments_are_one_line(id: str, message: str, source: str) -> None:
    Path("random.py").write_text("Warehouse = 3\n")
    Path("broken.py").write_text("import sys\nnme\n")
    with pytest.raises(UsageError, match=message.format(source)) as error:
        envs.make("gym", num_envs=1, id=id.format(source))
    assert "\n" not in str(error.value)
    assert "rlmem/" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"siz": 3}, r"unknown option of '.*': 'siz'; did you mean size .*\(known: sign, size\)"),
        ({"sizes": 3, "size": 3}, "'sizes'; did you mean size"),
    ],
)
def test_unknown_options_of_an_environment_are_one_line(
    kwargs: dict[str, Any], message: str, source: str
) -> None:
    with pytest.raises(UsageError, match=message):
        envs.make("gym", num_envs=1, id=f"{source}.py:Warehouse", kwargs=kwargs)


def test_errors_of_a_constructor_are_one_line(source: str) -> None:
    path = Path(f"{source}.py")
    path.write_text(path.read_text() + "\ndef fails(**options):\n    raise KeyError('no\\nkey')\n")
    with pytest.raises(UsageError, match=r"cannot make '.*:fails' with {'a': 1}: KeyError: ") as at:
        envs.make("gym", num_envs=1, id=f"{source}.py:fails", kwargs={"a": 1})
    assert "\n" not in str(at.value)


def test_a_missing_space_is_named(source: str) -> None:
    path = Path(f"{source}.py")
    path.write_text(path.read_text().replace("    observation_space", "    other_space"))
    with pytest.raises(UsageError, match="observation_space must be a space of gymnasium"):
        envs.make("gym", num_envs=1, id=f"{source}.py:Warehouse")
