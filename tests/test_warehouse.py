"""The warehouse example: an environment of one file, from training to an exported agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from warehouse import Warehouse

import rlmem
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
SMALL = {"num_envs": 32, "hidden_size": 64, "eval_episodes": 40, "threads": 1}
ACT = """
import rlmem, numpy as np
agent = rlmem.load("agent")
obs = np.load("obs.npy", allow_pickle=True).item()
print(agent.act(obs).tolist())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> rlmem.Result:
    folder = tmp_path_factory.mktemp("warehouse") / "agent"
    return rlmem.train(Warehouse, core="gru", total_steps=4096, run_dir=folder, **SMALL)


@pytest.mark.slow
@pytest.mark.learning
def test_the_mask_helps(tmp_path: Path) -> None:
    with_mask, without = (
        rlmem.train(
            Warehouse,
            core="gru",
            total_steps=24_576,
            run_dir=tmp_path / str(mask),
            policy={"action_mask": mask},
            **SMALL,
        )
        for mask in (True, False)
    )
    assert with_mask.agent.policy.mask is not None
    assert without.agent.policy.mask is None
    masked, plain = (
        rlmem.evaluate(rlmem.load(each.run_dir), Warehouse, episodes=100)["return_mean"]
        for each in (with_mask, without)
    )
    # A random policy has about -0.5, always the right crate 1.
    assert masked > 0.2
    assert masked > plain + 0.15


@pytest.mark.slow
def test_the_shell_trains_it_too(trained: rlmem.Result, tmp_path: Path) -> None:
    words = [f"{key}={value}" for key, value in SMALL.items()]
    file = ROOT / "examples" / "warehouse.py"
    command = [*warm_python(), "-m", "rlmem", "train", f"env={file}:Warehouse", "core=gru"]
    done = subprocess.run(
        [*command, "total_steps=4096", "run_dir=a", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "obs.action_mask: mask of 5 values" in done.stderr
    ours, theirs = rlmem.load(trained.run_dir), rlmem.load(tmp_path / "a")
    for key, weight in ours.policy.state_dict().items():
        assert weight.equal(theirs.policy.state_dict()[key]), key


def test_it_acts_without_the_environment(trained: rlmem.Result) -> None:
    env, agent = Warehouse(), rlmem.load(trained.run_dir)
    obs, _ = env.reset(seed=3)
    folder = Path(trained.run_dir).parent
    np.save(folder / "obs.npy", obs, allow_pickle=True)
    # The folder of the example is not on the path.
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"{ACT}\nimport warehouse"],
        cwd=folder,
        env=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'warehouse'" in done.stderr
    assert json.loads(done.stdout) == agent.act(obs).tolist()


@pytest.mark.slow
def test_onnx_acts_the_same(trained: rlmem.Result, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    agent, env = rlmem.load(trained.run_dir), Warehouse()
    # In a separate process: the shape checks of the tests cannot be traced.
    command = [*warm_python(), "-m", "rlmem", "export", f"run={trained.run_dir}"]
    subprocess.run([*command, f"to={tmp_path}/agent.onnx"], check=True, cwd=ROOT)
    session = onnxruntime.InferenceSession(str(tmp_path / "agent.onnx"))
    about = json.loads(session.get_modelmeta().custom_metadata_map["rlmem"])
    outputs = [each["name"] for each in about["outputs"]]
    given = {x["name"]: np.zeros([1, *x["shape"][1:]], x["dtype"]) for x in about["inputs"]}
    seen = set()
    for episode in range(20):
        obs, _ = env.reset(seed=episode)
        agent.reset()
        start = done = False
        while not done:
            for key, leaf in obs.items():
                given[f"obs.{key}"][0] = leaf
            given["start"][0] = not start
            results = dict(zip(outputs, session.run(outputs, given), strict=True))
            for name, following in about["state"].items():
                given[name] = results[following]
            action = agent.act(obs)
            np.testing.assert_array_equal(results["action"][0], action)
            seen.add(tuple(action.tolist()))
            obs, _, terminated, truncated, _ = env.step(action)
            start, done = True, terminated or truncated
    assert len(seen) > 2
