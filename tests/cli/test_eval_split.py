"""`rlmem eval split=...`: trials on new tasks, report and plot, rejected input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rlmem import envs
from rlmem.cli.main import main
from rlmem.envs.seeding import eval_seeds, train_seeds
from rlmem.envs.trials import Trials
from rlmem.runs import build, evaluate, playing
from tests.cli.common import SMALL


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two briefly trained agents on bandits with 3 arms, in trials of 6 pulls."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / "a", root / "b"]
    for seed, folder in enumerate(folders):
        arguments = ["env=meta-bandit", "env.arms=[3]", "env.heldout_arms=[2]", "env.episodes=6"]
        arguments += ["core=gru", f"seed={seed}", f"run_dir={folder}", *SMALL]
        assert main(["train", *arguments]) == 0
    return folders


def test_eval_of_a_split_writes_a_report_and_a_plot(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
):
    capsys.readouterr()
    assert main(["eval", f"run={runs[0]}", "split=heldout", "trials=20"]) == 0
    out = capsys.readouterr().out
    report = json.loads((runs[0] / "eval-heldout.json").read_text())
    assert (runs[0] / "eval-heldout.png").read_bytes().startswith(b"\x89PNG")
    assert report["trials"] == 20
    assert report["episodes"] == report["trained_episodes"] == 6
    assert report["deterministic"] is False
    returns = np.array(report["returns"]["agent"])
    assert returns.shape == (1, 20, 6)
    summary = report["scores"]["agent"]
    assert summary["mean"][0] == pytest.approx(returns.sum(-1).mean())
    mean, low, high = summary["mean"]
    assert low < mean < high
    assert "thompson" in report["scores"]
    oracle, chance = (report["scores"][name]["mean"][0] for name in ("oracle", "random"))
    assert oracle > chance
    assert f"{mean:.3f}" in out
    head, line = (next(row for row in out.splitlines() if key in row) for key in ("IQM", "agent  "))
    assert head.split()[-1] == "regret"
    assert line.split()[-1] == f"{summary['regret'][0]:.3f}"
    assert "20 trials of 6 episodes" in out


def test_each_kind_of_task_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    families = ["env.families=[cartpole,pendulum]", "env.heldout_families=[mountain-car]"]
    arguments = ["env=meta-control-projection", "tuned=none", "env.length=8", *families, *SMALL]
    assert main(["train", *arguments, f"run_dir={run}"]) == 0
    for split, kinds in (("heldout", ["cartpole", "pendulum"]), ("heldout-families", [])):
        capsys.readouterr()
        assert main(["eval", f"run={run}", f"split={split}", "trials=30"]) == 0
        out = capsys.readouterr().out
        report = json.loads((run / f"eval-{split}.json").read_text())
        assert list(report["kinds"]) == kinds
        assert sum(kind["trials"] for kind in report["kinds"].values()) == (30 if kinds else 0)
        for kind in report["kinds"].values():
            assert kind["random"][0] < kind["oracle"][0]
        for name in kinds:
            assert f"{name} (" in out


def test_longer_trials_several_runs_and_a_baseline(runs: list[Path]):
    both = f"run=[{runs[0]},{runs[1]}]"
    more = ["trial_episodes=9", "trials=8", f"baseline={runs[1]}", "references=false"]
    assert main(["eval", both, "split=heldout-arms", "deterministic=true", *more]) == 0
    report = json.loads((runs[0].parent / "eval-heldout-arms.json").read_text())
    assert np.array(report["returns"]["agent"]).shape == (2, 8, 9)
    assert set(report["scores"]) == {"agent", "baseline"}
    # The baseline is the second run and deterministic, so it repeats that run's returns.
    assert report["returns"]["baseline"][0] == report["returns"]["agent"][1]
    wins = report["scores"]["baseline"]["probability_of_improvement"]["agent"][0]
    assert 0 < wins < 1


def test_held_out_tasks_were_never_trained_on(runs: list[Path]):
    cfg = build.load_config(runs[0])
    env = build.make_env(cfg, 64, torch.device("cpu"))
    trained = ids(env, train_seeds(cfg.seed, 64), 12)
    cfg.env.split = "heldout"
    held = ids(build.make_env(cfg, 64, torch.device("cpu")), eval_seeds(cfg.seed, 64), 12)
    assert len(trained) == len(held) == 128
    assert not trained & held


def ids(env: envs.VecEnv, seeds: list[int], steps: int) -> set[int]:
    """The tasks that 64 environments play within `steps` steps."""
    assert isinstance(env, Trials)
    env.reset(seeds)
    seen = set(env.env.task_id.tolist())
    for _ in range(steps - 1):
        env.step({"action": torch.zeros(64, dtype=torch.int64)})
        seen |= set(env.env.task_id.tolist())
    return seen


def test_returns_do_not_depend_on_the_chunk_size(runs: list[Path]):
    trained = evaluate.load(runs[0])
    seeds = eval_seeds(5, 7)

    def make(num_envs: int) -> envs.VecEnv:
        return build.make_env(trained.cfg, num_envs, trained.device)

    whole = playing.play_trials(lambda env: trained.policy, make, seeds, True)
    parts = playing.play_trials(lambda env: trained.policy, make, seeds, True, chunk=3)
    np.testing.assert_array_equal(whole, parts)


def test_bad_input_is_rejected(runs: list[Path], error_line: Callable[..., str], tmp_path: Path):
    run = f"run={runs[0]}"
    assert "unknown split of meta-bandit: 'heldot'; did you mean" in error_line(
        "eval", run, "split=heldot"
    )
    assert "run must be one folder" in error_line("eval", f"run=[{runs[0]},{runs[1]}]")
    assert "trials must be at least 1" in error_line("eval", run, "split=heldout", "trials=0")
    other = tmp_path / "other"
    arguments = ["env=meta-bandit", "env.arms=[4]", "env.episodes=6", *SMALL]
    assert main(["train", *arguments, f"run_dir={other}"]) == 0
    both = f"run=[{runs[0]},{other}]"
    assert "cannot compare" in error_line("eval", both, "split=heldout")


def copied(run: Path, folder: Path, option: str, value: object) -> Path:
    """A copy of a run whose configuration has another value of an environment option."""
    shutil.copytree(run, folder)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env"][option] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_another_definition_of_the_splits_is_rejected(
    runs: list[Path], error_line: Callable[..., str], tmp_path: Path
):
    changed = copied(runs[0], tmp_path / "changed", "heldout_prior", [[1, 4]])
    assert "another definition of the splits" in error_line(
        "eval", f"run={changed}", "split=heldout"
    )


def test_a_run_trained_on_held_out_tasks_is_rejected(
    runs: list[Path], error_line: Callable[..., str], tmp_path: Path
):
    run = copied(runs[0], tmp_path / "leaky", "split", "heldout-arms")
    assert "was trained on the split 'heldout-arms'" in error_line(
        "eval", f"run={run}", "split=heldout"
    )


def test_a_run_without_task_splits_is_rejected(error_line: Callable[..., str], tmp_path: Path):
    run = tmp_path / "plain"
    assert main(["train", "env=popgym-repeat", "core=none", f"run_dir={run}", *SMALL]) == 0
    assert "has no task splits" in error_line("eval", f"run={run}", "split=heldout")
