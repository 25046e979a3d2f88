"""A stranger's folder: no code of it runs, and nothing outside of it is written (docs/trust.md)."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import rlmem
from rlmem.cli.main import main
from rlmem.errors import UsageError
from rlmem.runs import checkpoint
from tests.cli.common import ROOT, SMALL
from tests.data.test_mapped_files import Payload, add_payload

EVIL = """
from pathlib import Path
import gymnasium as gym
Path("RAN").touch()
class Walk(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}
    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t > 3, False, {}
"""
COMMANDS = {
    "eval": ["eval", "run=a", "episodes=2"],
    "play": ["play", "run=a"],
    "resume": ["train", "resume=a", "total_steps=512"],
    "export": ["export", "run=a", "to=out.rlmem"],
    "compare": ["compare", "a", "out=compared"],
    "report": ["report", "a", "out=report.html"],
}
CHECKPOINT = "checkpoints/step-000000256"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `a` whose replay is in files, and the data `data` that it records."""
    folder = tmp_path_factory.mktemp("stranger")
    before = Path.cwd()
    os.chdir(folder)
    try:
        replay = ["algo.replay.directory=a/replay", "algo.replay.capacity=2000"]
        rows = ["algo.replay.length=8", "algo.replay.burn_in=0", "algo.learning_starts=64"]
        sizes = [each for each in SMALL if "minibatches" not in each]
        env = ["env=memory-chain", "env.length=4", "core=gru", "algo=r2d2", "run_dir=a"]
        assert main(["train", *sizes, *env, *replay, *rows]) == 0
        assert main(["train", *SMALL, *env[:3], "run_dir=data-run", "record=data"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run in the current folder."""
    shutil.copytree(made / "a", tmp_path / "a")
    shutil.copytree(made / "data", tmp_path / "data")
    return tmp_path / "a"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def unseal(run: Path) -> None:
    """Remove hashes and copies of the configuration, as an attacker would write new ones."""
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    (run / "checkpoints/index.json").write_text('{"scores": {}}')


def files(folder: Path) -> dict[str, bytes]:
    """All files outside of the run, with their content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.relative_to(folder).parts[0] != "a"
    }


def test_code_of_the_folder_needs_trust(error_line: Callable[..., str]) -> None:
    Path("walk.py").write_text(EVIL)
    assert main(["train", *SMALL, "env=./walk.py:Walk", "run_dir=a"]) == 0
    Path("RAN").unlink()
    sys.modules.pop("walk")
    for name in ("eval", "play", "resume"):
        line = error_line(*COMMANDS[name])
        assert line.startswith("a names code to import, env.id=./walk.py:Walk: add trust=true")
        assert not Path("RAN").exists()
        # Anything that the user names now is trusted, and the whole folder with trust=true.
        assert main([*COMMANDS[name], "env=./walk.py:Walk"]) == 0
        assert Path("RAN").exists()
        Path("RAN").unlink()
        sys.modules.pop("walk")
    assert main([*COMMANDS["eval"], "trust=true"]) == 0
    # An agent without its environment names no code.
    Path("RAN").unlink()
    assert main(COMMANDS["export"]) == 0
    assert not Path("RAN").exists()
    assert "trust" not in Path("a/config.yaml").read_text().replace("trust: false", "")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("encoder: default", "encoder: walk:Walk", "policy.encoder=walk:Walk"),
        ("  name: memory-chain", "  name: gym\n  id: walk:Walk", "env.id=walk:Walk"),
        (
            "  name: memory-chain",
            "  name: gym\n  id: GymV26Environment-v0\n  kwargs: {env_id: 'x'}",
            "env.id=GymV26Environment-v0",
        ),
        (
            "  name: memory-chain",
            "  name: gym\n  id: CartPole-v1\n  kwargs: {a: {b: ['walk:Walk']}}",
            "env.kwargs.a.b=walk:Walk",
        ),
    ],
)
def test_every_name_of_code_is_found(
    run: Path, old: str, new: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("walk.py").write_text(EVIL)
    (run / "agent.json").unlink()
    unseal(run)
    edit(run / "config.yaml", old, new)
    for name in ("eval", "play", "resume"):
        assert main(COMMANDS[name]) == 2
        assert f"names code to import, {named}: add trust=true" in capsys.readouterr().err
    assert not Path("RAN").exists()


def test_an_encoder_in_an_agent_needs_trust(run: Path) -> None:
    Path("walk.py").write_text(EVIL)
    agent = json.loads((run / "agent.json").read_text())
    agent["policy"]["encoder"] = "walk:Walk"
    del agent["sha256"]
    weights = load_file(run / CHECKPOINT / "model.safetensors")
    save_file(weights, "agent.rlmem", {"agent": json.dumps(agent)})
    (run / "agent.json").write_text(json.dumps(agent))
    for place in ("a", "agent.rlmem"):
        with pytest.raises(UsageError, match="names code to import, encoder=walk:Walk"):
            rlmem.load(place)
        assert not Path("RAN").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_interpolations_and_aliases_are_refused(
    run: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    unseal(run)
    whole = (run / "config.yaml").read_text()
    bomb = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for last, name_ in zip("abcdefgh", "bcdefghi", strict=True):
        bomb.append(f"{name_}: &{name_} [{', '.join([f'*{last}'] * 10)}]")
    for text, named in (
        (whole.replace("gamma: 0.99", "gamma: ${oc.env:SECRET}"), "it has an interpolation"),
        (whole + "\n".join(bomb), "it has an alias"),
        (whole + "x: " + "[" * 100_000, "cannot read a/config.yaml: it is not YAML"),
        (whole + "x: " + "[" * 45 + "]" * 45, "nested too deeply"),
        (whole + "x: !!python/object/apply:os.mkdir [RAN]", "it has a tag"),
    ):
        (run / "config.yaml").write_text(text)
        code = main(COMMANDS[name])
        out, err = capsys.readouterr()
        if name != "export":  # which does not read it
            assert (code, named in err) == (2, True), err
        assert "hunter2" not in out + err
    assert not Path("RAN").exists()
    assert "hunter2" not in "".join(p.read_text(errors="replace") for p in Path().rglob("*.*"))


def test_pickles_and_bombs_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Path("RAN").absolute()
    trainer = run / CHECKPOINT / "trainer.pt"
    (run / CHECKPOINT / "manifest.json").unlink()
    (run / "checkpoints/index.json").write_text('{"scores": {}}')
    for other in run.glob("checkpoints/step-*"):
        if other.name not in CHECKPOINT:
            shutil.rmtree(other)
    trainer.write_bytes(pickle.dumps(Payload(place), 2))
    assert main(COMMANDS["resume"]) == 2
    assert "trainer.pt is not an archive of torch" in capsys.readouterr().err
    with zipfile.ZipFile(trainer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", pickle.dumps(Payload(place), 2))
        bomb.writestr("archive/data/0", bytes(2**24))
    assert main(COMMANDS["resume"]) == 2
    assert "trainer.pt is compressed" in capsys.readouterr().err
    with zipfile.ZipFile(trainer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(place), 2))
        archive.writestr("archive/version", "3\n")
    assert main(COMMANDS["resume"]) == 2
    assert "Weights only load failed" in capsys.readouterr().err
    for command in ("eval", "play", "export"):  # they do not read it
        assert main(COMMANDS[command]) == 0
    assert not place.exists()


def test_replays_and_datasets_run_no_code(run: Path, error_line: Callable[..., str]) -> None:
    place = Path("RAN").absolute()
    add_payload(run / "replay", place)
    add_payload(Path("data/000/storage"), place)
    assert "names 'extra', which is no leaf" in error_line(*COMMANDS["resume"])
    offline = ["algo=dt", "env=memory-chain", "env.length=4", "algo.dataset=data"]
    sizes = [each for each in SMALL if not each.startswith("algo")]
    assert "names 'extra', which is no leaf" in error_line("train", *sizes, *offline, "run_dir=b")
    assert not place.exists()


def test_nothing_is_written_outside(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    links = ["eval.json", "eval.json.partial", "metrics.csv", "metrics.csv.partial", "agent.json"]
    links += ["system.json", "config-000000256.yaml", "error.txt", "checkpoints/index.json"]
    links += [
        "replay/written",
        "checkpoints/index.partial",
        ".eval.partial.json",
        "evaluations.csv",
    ]
    for link in links:
        (run / link).unlink(missing_ok=True)
        (run / link).symlink_to(outside / "mine")
    (run / "checkpoints/step-000000512").symlink_to(outside)
    (run / "checkpoints/step-000000512.partial").symlink_to(outside)
    before = files(tmp_path)
    for name in ("eval", "play", "resume"):
        main(COMMANDS[name])
    assert files(tmp_path) == before
    (run / "replay/written").unlink()
    (run / "replay").rename(outside / "replay")
    (run / "replay").symlink_to(outside / "replay")
    before = files(tmp_path)
    assert main(COMMANDS["resume"]) == 2
    assert "names a place outside to write to, algo.replay.directory=" in capsys.readouterr().err
    assert files(tmp_path) == before
    assert "Traceback" not in capsys.readouterr().err


def test_places_outside_need_trust(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> str:
        assert main(COMMANDS["resume"]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    edit(run / "config.yaml", "record: null", "record: ../../elsewhere")
    assert refused() == (
        "rlmem: a names a place outside to write to, record=../../elsewhere: add it yourself, or "
        "trust=true"
    )
    edit(run / "config.yaml", "record: ../../elsewhere", "record: a/../../elsewhere")
    assert "record=a/../../elsewhere" in refused()
    edit(run / "config.yaml", "record: a/../../elsewhere", "record: null")
    edit(run / "config.yaml", "mlflow_uri: null", "mlflow_uri: http://127.0.0.1:1")
    assert "log.mlflow_uri=http" in refused()
    assert main([*COMMANDS["resume"], "log.mlflow_uri=null", "record=null"]) == 0


def test_the_replay_of_a_copied_run_is_its_own(run: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    shutil.copytree(run, tmp_path / "b/copy")
    before = files(run / "replay")
    assert len(before) > 6
    assert main(["train", "resume=b/copy", "total_steps=512"]) == 0
    assert files(run / "replay") == before
    assert "directory: b/copy/replay" in (tmp_path / "b/copy/config.yaml").read_text()
    assert checkpoint.steps("b/copy")[-1] == 512


def test_models_larger_than_their_weights_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = json.loads((run / "agent.json").read_text())
    del agent["sha256"]
    for key, value in (("hidden_size", 60_000), ("layers", 100_000)):
        shutil.copytree(run, "b")
        own = 8 if key == "hidden_size" else 1
        edit(Path("b/config.yaml"), f"\n{key}: {own}\n", f"\n{key}: {value}\n")
        agent["policy"] |= {key: value}
        Path("b/agent.json").write_text(json.dumps(agent))
        for name, command in COMMANDS.items():
            if name not in ("compare", "report"):
                assert main([each.replace("=a", "=b") for each in command]) == 2
                err = capsys.readouterr().err
                # The others are said of any run with such sizes.
                lines = "does not fit its weights|of memory, and cpu has|must be at most"
                assert re.search(lines, err), name
        shutil.rmtree("b")


# torchrun starts ranks with -u.
@pytest.mark.parametrize("flags", [[], pytest.param(["-u"], marks=pytest.mark.slow)])
def test_python_m_imports_nothing_from_the_current_folder(flags: list[str], tmp_path: Path) -> None:
    for name in ("torch", "yaml", "hydra", "typing_extensions", "importlib", "omegaconf", "typing"):
        (tmp_path / f"{name}.py").write_text("open('RAN', 'w')\n")
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/evil.py").write_text("open('RAN', 'w')\n")
    done = subprocess.run(
        [sys.executable, *flags, "-m", "rlmem", "eval", "run=x"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == "rlmem: x is neither a run folder nor an agent file\n"
    assert not (tmp_path / "RAN").exists()
