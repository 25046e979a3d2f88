"""What the options of a command line become: the configuration that training is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from rlmem.cli import main
from rlmem.errors import UsageError


def test_training_gets_the_options_as_the_types_they_have(trained: list[DictConfig]) -> None:
    options = "core=gru total_steps=1e6 algo.gamma=1 threads=2 run_dir=2024 env.difficulty=hard"
    assert main(["train", *options.split(), "-m", "seed=3"]) == 2
    assert main(["train", *options.split(), "seed=3"]) == 0
    (cfg,) = trained
    assert (cfg.core.name, cfg.seed, cfg.threads, cfg.run_dir) == ("gru", 3, 2, "2024")
    assert (cfg.env.name, cfg.env.difficulty, cfg.env.previous_action) == (
        "popgym-repeat",
        "hard",
        False,
    )
    assert type(cfg.total_steps) is int
    assert cfg.total_steps == 1_000_000
    assert type(cfg.algo.gamma) is float


def test_what_is_tuned_for_a_task_and_an_algorithm_holds_where_nothing_else_is_said(
    trained: list[DictConfig], refusal: Callable[..., str]
) -> None:
    plain, tuned = (300_000, 0.99), (1_000_000, 0.95)
    cases = {
        "env=meta-bandit core=s5": tuned,
        "env=meta-bandit algo.gamma=0.5": (1_000_000, 0.5),
        "total_steps=77 env=meta-bandit": (77, 0.95),
        "env=meta-bandit tuned=none": plain,
        "env=meta-bandit algo=pqn": plain,
        "env=meta-tabular-mdp": plain,
        "env=meta-tabular-mdp tuned=meta-bandit-ppo": tuned,
    }
    for options, expected in cases.items():
        assert main(["train", *options.split()]) == 0
        assert (trained[-1].total_steps, trained[-1].algo.gamma) == expected, options
    assert refusal("train", "tuned=meta-bandit-pqn").startswith(
        "unknown tuned 'meta-bandit-pqn'; did you mean meta-bandit-ppo"
    )
    for nothing in ("tuned=", "tuned=null"):
        assert "tuned=none" in refusal("train", nothing)


def test_an_experiment_has_what_is_tuned_for_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=in-context", "--cfg", "job"]) == 0
    cfg = OmegaConf.create(capsys.readouterr().out)
    assert isinstance(cfg, DictConfig)
    assert (cfg.env.name, cfg.layers, cfg.algo.num_steps) == ("meta-cartpole-projection", 2, 256)


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
