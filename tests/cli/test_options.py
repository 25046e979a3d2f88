"""Command line options: the configurations that training gets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from rlmem.cli.main import main
from rlmem.errors import UsageError


def test_options_are_converted_to_the_types_of_their_defaults(trained: list[DictConfig]) -> None:
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


def test_tuned_settings_apply_unless_options_override_them(
    trained: list[DictConfig], error_line: Callable[..., str]
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
    assert error_line("train", "tuned=meta-bandit-pqn").startswith(
        "unknown tuned 'meta-bandit-pqn'; did you mean meta-bandit-ppo"
    )
    for empty in ("tuned=", "tuned=null"):
        assert "tuned=none" in error_line("train", empty)


def test_tuned_settings_apply_to_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=in-context", "--cfg", "job"]) == 0
    cfg = OmegaConf.create(capsys.readouterr().out)
    assert isinstance(cfg, DictConfig)
    assert (cfg.env.name, cfg.layers, cfg.algo.num_steps) == ("meta-cartpole-projection", 2, 256)


def test_an_experiment_comes_before_the_command_line(trained: list[DictConfig]) -> None:
    assert main(["train", "experiment=quick-repeat", "hidden_size=32"]) == 0
    (cfg,) = trained
    assert (cfg.env.name, cfg.core.name, cfg.core.max_period) == ("popgym-repeat", "ffm", 16.0)
    assert (cfg.hidden_size, cfg.total_steps, cfg.algo.gamma) == (32, 40_000, 0.0)


def test_the_default_run_folder_names_environment_core_and_seed(
    trained: list[DictConfig], tmp_path: Path
) -> None:
    assert main(["train", "seed=7", "env=popgym-autoencode", "core=lstm"]) == 0
    assert re.fullmatch(r"runs/popgym-autoencode/lstm/ppo-seed7-\d{8}-\d{6}", trained[0].run_dir)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_not_overwritten(
    trained: list[DictConfig], error_line: Callable[..., str]
) -> None:
    Path("a").mkdir()
    assert main(["train", "run_dir=a"]) == 0
    Path("a/config.yaml").write_text("seed: 0\n")
    line = error_line("train", "run_dir=a")
    assert line == "a already holds a run: use another run_dir, or resume=a"
    assert len(trained) == 1


def test_resume_uses_the_saved_configuration_and_the_given_options(
    trained: list[DictConfig], error_line: Callable[..., str]
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
        error_line("train", "resume=a", "core=ffm")
        == "a was trained with core=gru, which cannot be changed to core=ffm"
    )
    assert "give resume or run_dir, not both" in error_line("train", "resume=a", "run_dir=b")
    Path("a/config.yaml").write_text("seed: 0\n")
    assert "a/config.yaml is not the configuration of a run" in error_line("train", "resume=a")


def test_a_sweep_runs_each_combination_in_its_own_folder(trained: list[DictConfig]) -> None:
    assert main(["train", "core=gru,ffm", "-m", "seed=0,1", "layers=2"]) == 0
    assert [(cfg.core.name, cfg.seed, cfg.layers) for cfg in trained] == [
        ("gru", 0, 2),
        ("gru", 1, 2),
        ("ffm", 0, 2),
        ("ffm", 1, 2),
    ]
    folders = [Path(cfg.run_dir) for cfg in trained]
    assert [folder.name for folder in folders] == [
        "0-popgym-repeat-gru-ppo-seed0",
        "1-popgym-repeat-gru-ppo-seed1",
        "2-popgym-repeat-ffm-ppo-seed0",
        "3-popgym-repeat-ffm-ppo-seed1",
    ]
    assert all(folder.is_dir() and folder.parts[0] == "multirun" for folder in folders)


def test_a_sweep_continues_after_a_failed_run(
    monkeypatch: pytest.MonkeyPatch, error_line: Callable[..., str]
) -> None:
    finished: list[int] = []

    def run(cfg: DictConfig, unique: bool) -> float:
        if cfg.seed == 1:
            raise UsageError("no such seed")
        finished.append(cfg.seed)
        return 0.0

    monkeypatch.setattr("rlmem.runs.train.run", run)
    assert error_line("train", "-m", "seed=0,1,2") == "no such seed"
    assert finished == [0, 2]


def test_cfg_only_prints_the_configuration(
    trained: list[DictConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "core=gru", "algo.gamma=0.5", "--cfg", "job"]) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert (printed.core.name, printed.algo.gamma, printed.num_envs) == ("gru", 0.5, 64)
    assert "hydra" not in printed
    assert main(["train", "core=gru", "--cfg=job", "--resolve"]) == 0
    assert "runs/popgym-repeat/gru/ppo-seed0-2" in capsys.readouterr().out
    assert trained == []
    assert list(tmp_path.iterdir()) == []


def test_yaml_files_from_other_folders(
    trained: list[DictConfig], error_line: Callable[..., str]
) -> None:
    Path("mine/core").mkdir(parents=True)
    Path("mine/core/elephant.yaml").write_text("# never forgets\nname: elephant\nears: 2  # big\n")
    assert main(["train", "--config-dir", "mine", "core=elephant", "core.ears=3"]) == 0
    assert main(["train", f"hydra.searchpath=[file://{os.getcwd()}/mine]", "core=elephant"]) == 0
    assert [cfg.core for cfg in trained] == [
        {"name": "elephant", "ears": 3},
        {"name": "elephant", "ears": 2},
    ]
    line = error_line("train", "--config-dir", "mine", "core=elephant", "core.eras=3")
    assert line.startswith("unknown key of core: 'eras'; did you mean ears")
    line = error_line("train", "--config-dir", "mine", "core=elephant", "core.ears=two")
    assert line == "core.ears must be an integer, not 'two'"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that adds a core with an entry point, without YAML."""
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
    assert trained[0].run_dir.startswith("runs/popgym-repeat/elephant/ppo-seed0-")
