"""`rlmem eval split=...`: trials on new tasks, a report and a plot, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rlmem import envs, evaluate, train
from rlmem.cli import main
from rlmem.envs.seeding import eval_seeds, train_seeds
from rlmem.envs.trials import Trials
from tests.cli.common import SMALL


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two hardly trained agents on bandits with 3 arms, trials of 6 pulls."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / "a", root / "b"]
    for seed, folder in enumerate(folders):
        arguments = ["env=meta-bandit", "env.arms=[3]", "env.heldout_arms=[2]", "env.episodes=6"]
        arguments += ["core=gru", f"seed={seed}", f"run_dir={folder}", *SMALL]
        assert main(["train", *arguments]) == 0
    return folders


def test_eval_of_a_split_leaves_a_report_and_a_plot(
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
    told = report["scores"]["agent"]
    assert told["mean"][0] == pytest.approx(returns.sum(-1).mean())
    assert told["mean"][1] < told["mean"][0] < told["mean"][2]
    assert "thompson" in report["scores"]
    oracle, chance = (report["scores"][name]["mean"][0] for name in ("oracle", "random"))
    assert oracle > chance
    assert f"{told['mean'][0]:.3f}" in out
    assert "20 trials of 6 episodes" in out


def test_each_kind_of_task_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
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
        assert sum(told["trials"] for told in report["kinds"].values()) == (30 if kinds else 0)
        for told in report["kinds"].values():
            assert told["random"][0] < told["oracle"][0]
        for kind in kinds:
            assert f"{kind} (" in out


def test_longer_trials_several_runs_and_a_baseline(runs: list[Path]):
    both = f"run=[{runs[0]},{runs[1]}]"
    more = ["trial_episodes=9", "trials=8", f"baseline={runs[1]}", "references=false"]
    assert main(["eval", both, "split=heldout-arms", "deterministic=true", *more]) == 0
    report = json.loads((runs[0].parent / "eval-heldout-arms.json").read_text())
    assert np.array(report["returns"]["agent"]).shape == (2, 8, 9)
    assert set(report["scores"]) == {"agent", "baseline"}
    # The baseline is the second of the runs, and greedy: it plays the same again.
    assert report["returns"]["baseline"][0] == report["returns"]["agent"][1]
    wins = report["scores"]["baseline"]["probability_of_improvement"]["agent"][0]
    assert 0 < wins < 1


def test_held_out_tasks_were_never_trained_on(runs: list[Path]):
    cfg = train.load_config(runs[0])
    env = train.make_env(cfg, 64, torch.device("cpu"))
    trained = ids(env, train_seeds(cfg.seed, 64), 12)
    cfg.env.split = "heldout"
    held = ids(train.make_env(cfg, 64, torch.device("cpu")), eval_seeds(cfg.seed, 64), 12)
    assert len(trained) == len(held) == 128
    assert not trained & held


def ids(env: envs.VecEnv, seeds: list[int], steps: int) -> set[int]:
    """The tasks that environments of trials of 6 pulls play."""
    assert isinstance(env, Trials)
    env.reset(seeds)
    seen = set(env.env.task_id.tolist())
    for _ in range(steps - 1):
        env.step({"action": torch.zeros(64, dtype=torch.int64)})
        seen |= set(env.env.task_id.tolist())
    return seen


def test_the_same_trials_whatever_plays_at_once(runs: list[Path]):
    trained = evaluate.load(runs[0])
    seeds = eval_seeds(5, 7)

    def make(num_envs: int) -> envs.VecEnv:
        return train.make_env(trained.cfg, num_envs, trained.device)

    whole = evaluate.play_trials(lambda env: trained.policy, make, seeds, True)
    parts = evaluate.play_trials(lambda env: trained.policy, make, seeds, True, chunk=3)
    np.testing.assert_array_equal(whole, parts)


def test_bad_input_is_refused(runs: list[Path], refusal: Callable[..., str], tmp_path: Path):
    run = f"run={runs[0]}"
    assert "unknown split of meta-bandit: 'heldot'; did you mean" in refusal(
        "eval", run, "split=heldot"
    )
    assert "run is one folder" in refusal("eval", f"run=[{runs[0]},{runs[1]}]")
    assert "trials must be at least 1" in refusal("eval", run, "split=heldout", "trials=0")
    other = tmp_path / "other"
    arguments = ["env=meta-bandit", "env.arms=[4]", "env.episodes=6", *SMALL]
    assert main(["train", *arguments, f"run_dir={other}"]) == 0
    both = f"run=[{runs[0]},{other}]"
    assert "cannot be compared" in refusal("eval", both, "split=heldout")


def copied(run: Path, folder: Path, option: str, value: object) -> Path:
    """The run with another value of an option of its environment in its configuration."""
    folder.mkdir()
    for name in ("tasks.json", "checkpoints"):
        (folder / name).symlink_to(run / name)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env"][option] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_another_definition_of_the_splits_is_refused(
    runs: list[Path], refusal: Callable[..., str], tmp_path: Path
):
    changed = copied(runs[0], tmp_path / "changed", "heldout_prior", [[1, 4]])
    assert "another definition of the splits" in refusal("eval", f"run={changed}", "split=heldout")


def test_nothing_is_held_out_from_a_run_on_held_out_tasks(
    runs: list[Path], refusal: Callable[..., str], tmp_path: Path
):
    run = copied(runs[0], tmp_path / "leaky", "split", "heldout-arms")
    assert "was trained on the split 'heldout-arms'" in refusal(
        "eval", f"run={run}", "split=heldout"
    )


def test_a_run_without_tasks_has_no_split(refusal: Callable[..., str], tmp_path: Path):
    run = tmp_path / "plain"
    assert main(["train", "env=popgym-repeat", "core=none", f"run_dir={run}", *SMALL]) == 0
    assert "draws no tasks" in refusal("eval", f"run={run}", "split=heldout")
