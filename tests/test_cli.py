"""The command line: what it hands on, what it prints, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from omegaconf import DictConfig, OmegaConf
from torch import nn

from rlmem import __version__, checkpoint
from rlmem.cli import main
from rlmem.cli_help import CONFIGS
from rlmem.errors import UsageError

# A training of a second or two; one thread, because the tests share the machine.
SMALL = [
    "threads=1",
    "num_envs=4",
    "hidden_size=8",
    "total_steps=256",
    "eval_episodes=2",
    "algo.num_steps=32",
    "algo.num_minibatches=2",
    "log.tensorboard=false",
]
# beartype's opinion of OmegaConf's annotations.
pytestmark = pytest.mark.filterwarnings(
    "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning"
)
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """The configurations that training was asked for, instead of training."""
    asked: list[DictConfig] = []

    def run(cfg: DictConfig) -> float:
        asked.append(cfg)
        return 0.5

    monkeypatch.setattr("rlmem.train.run", run)
    return asked


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the program with bad input; returns the one line that it says."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert re.fullmatch(r"rlmem: [^\n]+\n", err), err
        assert "[HYDRA]" in out or out == ""
        return err.removeprefix("rlmem: ").rstrip()

    return run


def _program(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "rlmem", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("core=fmm", "unknown core 'fmm'; did you mean ffm"),
        ("env=popgym-repaet", "unknown env 'popgym-repaet'; did you mean popgym-repeat"),
        ("algo=pppo", "unknown algo 'pppo'; did you mean ppo? (known: ppo"),
        ("policy=dfault", "unknown policy 'dfault'; did you mean default?"),
        ("hydra/sweeper=optuna", "unknown hydra/sweeper 'optuna' (known: basic)"),
        ("cor=gru", "unknown key 'cor'; did you mean core?"),
        ("totalsteps=10", "unknown key 'totalsteps'; did you mean total_steps?"),
        ("gamma=0.9", "unknown key 'gamma'; did you mean algo.gamma?"),
        ("core.memory_sze=3", "unknown key of core: 'memory_sze'; did you mean memory_size"),
        ("core.memory_size.x=3", "unknown key of core: 'memory_size.x'; did you mean memory_"),
        ("core=gru core.memory_size=3", "unknown key of core: 'memory_size' (known: name)"),
        (
            "-m core=ffm,gru core.memory_siz=3",
            "unknown key of core: 'memory_siz'; did you mean memory_size",
        ),
        ("core", "cannot read 'core': an option is written key=value"),
        ("seed=[", "cannot read 'seed=[': "),
        ("seed=${nope}", "Interpolation key 'nope' not found"),
        ("run_dir=${nope.x}/y", "Interpolation key 'nope.x' not found"),
        ("core=gru,ffm", "core=gru,ffm has a comma: add -m for a run of each"),
        ("core=null", "core needs a name"),
        ("+core=gru", "core is chosen already: write core=NAME once, without +"),
        ("~seed", "~seed: an option cannot be taken away, only changed"),
        ("~algo", "~algo: an option cannot be taken away, only changed"),
        ("num_envs=-3", "num_envs must be at least 1, not -3"),
        ("num_envs=0", "num_envs must be at least 1, not 0"),
        ("hidden_size=abc", "hidden_size must be an integer, not 'abc'"),
        ("hidden_size=null", "hidden_size must be an integer, not null"),
        ("total_steps=1.5", "total_steps must be an integer, not 1.5"),
        ("layers=true", "layers must be an integer, not True"),
        ("threads=-1", "threads must be at least 1, not -1"),
        ("checkpoint_every=often", "checkpoint_every must be an integer, not 'often'"),
        ("seed=-1", "seed must not be negative, not -1"),
        ("algo.num_epochs=-2", "algo.num_epochs must not be negative, not -2"),
        ("algo.gamma=high", "algo.gamma must be a number, not 'high'"),
        ("algo.anneal_lr=1", "algo.anneal_lr must be true or false, not 1"),
        ("core.memory_size=[1,2]", "core.memory_size must be an integer, not [1, 2]"),
        ("device=[cpu]", "device must be text, not ['cpu']"),
        ("--foo", "unrecognized arguments: --foo (rlmem train --help"),
        ("-m --cfg job", "argument --cfg/-c: not allowed with argument --multirun/-m"),
        ("--cfg nonsense", "argument --cfg/-c: invalid choice: 'nonsense'"),
        ("--config-dir nowhere", "Additional config directory"),
        ("resume=nowhere", "nowhere is not a run folder: there is no such folder"),
        ("-m run_dir=x seed=1", "run_dir is one folder for many runs"),
    ],
)
def test_bad_options_of_train(
    arguments: str,
    message: str,
    refusal: Callable[..., str],
    trained: list[DictConfig],
    tmp_path: Path,
) -> None:
    assert message in refusal("train", *arguments.split(" "))
    assert trained == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("env.difficulty=impossible", "'impossible'"),
        ("algo.num_minibatches=3", "num_minibatches (3) must divide num_envs (4)"),
        ("core.memory_size=0", "memory_size must be"),
        ("device=tpu", "unknown device 'tpu' (allowed: auto, cpu, cuda, cuda:N)"),
        ("device=cuda:99", "cuda"),
        ("env=gym env.id=CarPole-v1", "unknown Gymnasium id 'CarPole-v1'; did you mean CartPole"),
        ("env=gym +env.colour=red", "unknown option of env 'gym': 'colour'"),
    ],
)
def test_what_only_the_parts_can_refuse(
    arguments: str, message: str, refusal: Callable[..., str], tmp_path: Path
) -> None:
    assert message in refusal("train", *SMALL, *arguments.split(" "))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "rlmem eval needs run=<dir>"),
        ("run=nowhere", "nowhere is not a run folder: there is no such folder"),
        ("run=.", "is not a run folder: it has no config.yaml"),
        ("run=nowhere episodes=0", "episodes must be at least 1, not 0"),
        ("run=nowhere deterministic=maybe", "deterministic must be true or false, not 'maybe'"),
        ("run=nowhere episode=3", "unknown key 'episode'; did you mean episodes?"),
        ("runs/a", "cannot read 'runs/a': an option is written key=value"),
    ],
)
def test_bad_options_of_eval(arguments: str, message: str, refusal: Callable[..., str]) -> None:
    assert message in refusal("eval", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "a command is missing: train, eval, list"),
        ("trian", "unknown command 'trian'; did you mean train?"),
        ("core=ffm", "unknown command 'core=ffm'"),
        ("list cores", "rlmem list takes no arguments, not 'cores'"),
    ],
)
def test_bad_commands(arguments: str, message: str, refusal: Callable[..., str]) -> None:
    assert message in refusal(*arguments.split())


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cfg: DictConfig) -> float:
        raise RuntimeError("a bug")

    monkeypatch.setattr("rlmem.train.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train"])


def test_training_gets_the_options_as_the_types_they_have(trained: list[DictConfig]) -> None:
    options = "core=gru total_steps=1e6 algo.gamma=1 threads=2 run_dir=2024 env.difficulty=hard"
    assert main(["train", *options.split(), "-m", "seed=3"]) == 2
    assert main(["train", *options.split(), "seed=3"]) == 0
    (cfg,) = trained
    assert (cfg.core.name, cfg.seed, cfg.threads, cfg.run_dir) == ("gru", 3, 2, "2024")
    assert (cfg.env.name, cfg.env.difficulty, cfg.env.previous_action) == (
        "popgym-repeat",
        "hard",
        True,
    )
    assert type(cfg.total_steps) is int
    assert cfg.total_steps == 1_000_000
    assert type(cfg.algo.gamma) is float


def test_the_run_folder_says_what_runs_in_it(trained: list[DictConfig], tmp_path: Path) -> None:
    assert main(["train", "seed=7", "env=popgym-autoencode", "core=lstm"]) == 0
    assert re.fullmatch(r"runs/popgym-autoencode/lstm/seed7-\d{8}-\d{6}", trained[0].run_dir)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_overwritten(trained: list[DictConfig], refusal: Callable[..., str]) -> None:
    Path("a").mkdir()
    assert main(["train", "run_dir=a"]) == 0
    Path("a/config.yaml").write_text("seed: 0\n")
    line = refusal("train", "run_dir=a")
    assert line == "a holds a run already: give another run_dir, or resume=a"
    assert len(trained) == 1


def test_resume_takes_the_runs_configuration_and_the_options_given(
    trained: list[DictConfig], refusal: Callable[..., str]
) -> None:
    assert main(["train", "core=gru", "seed=5", "algo.gamma=0.5", "run_dir=a"]) == 0
    Path("a").mkdir()
    OmegaConf.save(trained[0], "a/config.yaml")
    assert main(["train", "resume=a", "total_steps=1234", "algo.ent_coef=0"]) == 0
    expected = OmegaConf.merge(
        trained[0], {"total_steps": 1234, "resume": "a", "algo": {"ent_coef": 0.0}}
    )
    assert trained[1] == expected
    assert (
        refusal("train", "resume=a", "core=ffm") == "a has core=gru and cannot go on with core=ffm"
    )
    assert "give resume or run_dir, not both" in refusal("train", "resume=a", "run_dir=b")
    Path("a/config.yaml").write_text("seed: 0\n")
    assert "a/config.yaml is not the configuration of a run" in refusal("train", "resume=a")


def test_a_sweep_runs_every_combination_in_a_folder_of_its_own(trained: list[DictConfig]) -> None:
    assert main(["train", "core=gru,ffm", "-m", "seed=0,1", "layers=2"]) == 0
    assert [(cfg.core.name, cfg.seed, cfg.layers) for cfg in trained] == [
        ("gru", 0, 2),
        ("gru", 1, 2),
        ("ffm", 0, 2),
        ("ffm", 1, 2),
    ]
    folders = [Path(cfg.run_dir) for cfg in trained]
    assert [folder.name for folder in folders] == [
        "0-popgym-repeat-gru-seed0",
        "1-popgym-repeat-gru-seed1",
        "2-popgym-repeat-ffm-seed0",
        "3-popgym-repeat-ffm-seed1",
    ]
    assert all(folder.is_dir() and folder.parts[0] == "multirun" for folder in folders)


def test_a_sweep_goes_on_after_a_run_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    finished: list[int] = []

    def run(cfg: DictConfig) -> float:
        if cfg.seed == 1:
            raise UsageError("no such seed")
        finished.append(cfg.seed)
        return 0.0

    monkeypatch.setattr("rlmem.train.run", run)
    assert refusal("train", "-m", "seed=0,1,2") == "no such seed"
    assert finished == [0, 2]


def test_cfg_prints_the_configuration_and_does_nothing(
    trained: list[DictConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "core=gru", "algo.gamma=0.5", "--cfg", "job"]) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert (printed.core.name, printed.algo.gamma, printed.num_envs) == ("gru", 0.5, 64)
    assert "hydra" not in printed
    assert main(["train", "core=gru", "--cfg=job", "--resolve"]) == 0
    assert "runs/popgym-repeat/gru/seed0-2" in capsys.readouterr().out
    assert trained == []
    assert list(tmp_path.iterdir()) == []


def test_yaml_files_of_ones_own(trained: list[DictConfig], refusal: Callable[..., str]) -> None:
    Path("mine/core").mkdir(parents=True)
    Path("mine/core/elephant.yaml").write_text("# never forgets\nname: elephant\nears: 2  # big\n")
    assert main(["train", "--config-dir", "mine", "core=elephant", "core.ears=3"]) == 0
    assert main(["train", f"hydra.searchpath=[file://{os.getcwd()}/mine]", "core=elephant"]) == 0
    assert [cfg.core for cfg in trained] == [
        {"name": "elephant", "ears": 3},
        {"name": "elephant", "ears": 2},
    ]
    line = refusal("train", "--config-dir", "mine", "core=elephant", "core.eras=3")
    assert line.startswith("unknown key of core: 'eras'; did you mean ears")
    line = refusal("train", "--config-dir", "mine", "core=elephant", "core.ears=two")
    assert line == "core.ears must be an integer, not 'two'"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that adds a core by an entry point, without YAML."""
    info = tmp_path / "site" / "zoo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlmem.cores]\nelephant = zoo.elephant\n")
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.mark.usefixtures("package")
def test_a_core_of_another_package_needs_no_yaml(
    trained: list[DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    assert re.search(r"^  elephant +from the package zoo$", capsys.readouterr().out, re.M)
    assert main(["train", "core=elephant", "core.ears=3"]) == 0
    assert trained[0].core == {"name": "elephant", "ears": 3}
    assert trained[0].run_dir.startswith("runs/popgym-repeat/elephant/seed0-")


def test_list_has_a_line_for_every_yaml_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = dict(re.findall(r"^  (\S+)  +(\S.*)$", capsys.readouterr().out, re.M))
    for group in ("core", "env", "algo"):
        for path in (CONFIGS / group).glob("*.yaml"):
            assert listed.pop(path.stem) == path.read_text().splitlines()[0].removeprefix("# ")
    assert not listed


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_help_says_every_option_with_its_default_and_meaning(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([path.stem, "--cfg", "job"]) == 0
    values = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    assert isinstance(values, dict)
    assert main([path.stem, "--help"]) == 0
    text = capsys.readouterr().out
    for key, value in values.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        for name, default in nested:
            if name != "name":
                option = re.escape(f"{key}.{name}".rstrip("."))
                said = re.search(rf"^  {option}=(.*?)  +\S", text, re.M)
                assert said, option
                assert OmegaConf.create({"x": default}) == OmegaConf.create(f"x: {said[1]}"), option


def test_help_shows_the_options_of_the_core_that_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "core=none", "--help"]) == 0
    text = capsys.readouterr().out
    assert "core=none: no memory" in text
    assert "core.memory_size" not in text


@pytest.mark.parametrize("arguments", ["--help", "--version", "list", "train --help", "tarin"])
def test_what_must_come_at_once_imports_nothing_heavy(arguments: str) -> None:
    code = (
        "import sys; from rlmem.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'hydra', 'omegaconf', 'gymnasium', 'numpy', 'rich'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_python_m_rlmem_is_the_same_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert _program("--version").stdout == f"rlmem {__version__}\n"
    assert main(["--help"]) == 0
    assert _program("--help").stdout == capsys.readouterr().out
    done = _program("train", "env=popgym-repaet")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"rlmem: unknown env 'popgym-repaet'; did you mean [^\n]*\n", done.stderr)


def test_interrupted_before_anything_was_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(cfg: DictConfig) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlmem.train.run", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr() == ("", "interrupted before anything was saved\n")


def test_interrupted_with_something_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(cfg: DictConfig) -> float:
        Path(cfg.run_dir).mkdir(parents=True)
        checkpoint.save(cfg.run_dir, 77, nn.Linear(1, 1), {})
        raise KeyboardInterrupt

    monkeypatch.setattr("rlmem.train.run", interrupt)
    assert main(["train", "run_dir=a"]) == 130
    expected = "saved a/checkpoints/step-000000077; resume with: rlmem train resume=a\n"
    assert capsys.readouterr() == ("", expected)


def test_train_eval_and_resume_for_real(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"greedy return -?\d\.\d+ over 2 episodes after 256 steps .*: a\n", out)
    assert err == ""
    assert main(["eval", "run=a", "episodes=3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(Path("a/eval.json").read_text())
    assert printed["return_mean"] == pytest.approx(sum(written["returns"]) / 3)
    assert (printed["step"], printed["episodes"]) == (256, 3)
    assert main(["train", "resume=a", "total_steps=384"]) == 0
    assert checkpoint.steps("a")[-1] == 384
    assert "no checkpoint '999'" in _error(["eval", "run=a", "checkpoint=999"], capsys)
    wider = _error(["train", "resume=a", "hidden_size=16", "total_steps=512"], capsys)
    assert re.search(r"does not fit this model: its '\S+' is \[.*8.*\], .* is \[.*16.*\]", wider)
    (checkpoint.find("a") / "model.safetensors").write_bytes(b"")
    assert "cannot read the checkpoint a/checkpoints/" in _error(["eval", "run=a"], capsys)


class _Speaker(gym.Env):
    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Text(3)

    def reset(self, **_: object) -> tuple[int, dict[str, Any]]:
        return 0, {}


def test_an_action_space_that_is_not_supported_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = gym.envs.registration.EnvSpec("Speaker-v0", _Speaker)
    monkeypatch.setitem(gym.registry, "Speaker-v0", spec)
    line = _error(["train", *SMALL, "env=gym", "env.id=Speaker-v0"], capsys)
    assert "action" in line
    assert "Text(" in line
    assert not Path("runs").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    capsys.readouterr()
    line = _error(["train", "resume=a", "total_steps=1024", "algo.learning_rate=1e30"], capsys)
    assert re.search(
        r"stopped at step \d+: .*(nan|inf).* checkpoint is a/checkpoints/step-\d+", line
    )
    assert main(["eval", "run=a", "episodes=1"]) == 0


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


def test_ctrl_c_saves_and_resume_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlmem", "train", *SMALL, "total_steps=100000000", "run_dir=a"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        metrics = tmp_path / "a" / "metrics.csv"
        deadline = time.monotonic() + 90
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    saved = checkpoint.last("a")
    assert saved is not None
    assert err.endswith(f"saved {saved}; resume with: rlmem train resume=a\n")
    steps = checkpoint.steps("a")[-1]
    assert main(["train", "resume=a", f"total_steps={steps + 128}"]) == 0
    assert checkpoint.steps("a")[-1] == steps + 128
