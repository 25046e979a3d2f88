"""Evaluation: one episode per seed for any number of environments; content of `eval.json`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from rlmem import envs
from rlmem.envs.seeding import eval_seeds
from rlmem.envs.trials import Trials
from rlmem.policies import ActorCritic
from rlmem.runs import evaluate, playing, sealed
from rlmem.runs.progress import Progress
from rlmem.runs.scores import REFERENCES, memory_score
from tests.data.counting import Counting


def make_policy(make_env: partial[envs.VecEnv]) -> ActorCritic:
    env = make_env(1)
    policy = ActorCritic(env.observation_space, env.action_space, core="gru", hidden_size=8)
    env.close()
    return policy


@pytest.mark.parametrize("name", ["popgym-repeat", "popgym-position-only-cartpole"])
def test_returns_do_not_depend_on_the_number_of_environments(name: str):
    make_env = partial(_make, name)
    policy, seeds = make_policy(make_env), eval_seeds(3, 7)
    together = playing.play(policy, make_env, seeds)
    assert len(set(together)) > 1
    assert playing.play(policy, make_env, seeds, chunk=3) == pytest.approx(together)
    assert playing.play(policy, make_env, seeds[:2]) == pytest.approx(together[:2])


def _make(name: str, num_envs: int) -> envs.VecEnv:
    return envs.make(name, num_envs=num_envs)


def test_each_environment_counts_one_episode():
    # Returns 1+2+3, 1+2+3+4+5 and 1; the short episode is repeated but counts once.
    env = Counting([3, 5, 1], [False, True, False])
    policy = ActorCritic(env.observation_space, env.action_space, core="none", hidden_size=8)
    assert playing.play(policy, lambda _: env, [1, 3, 5]) == [6, 15, 1]


def test_an_episode_without_end_is_cut_and_counts_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Environment 1 never ends within 4 steps: 1 + 2 + 3 + 4.
    env = Counting([3, 100], [False, True])
    policy = ActorCritic(env.observation_space, env.action_space, core="none", hidden_size=8)
    watch = playing.Watch(max_steps=4)
    assert playing.play(policy, lambda _: env, [1, 3], watch=watch) == [6, 10]
    assert watch.unfinished == 1
    for options, hint in (({"max_episode_steps": None}, "env.max_episode_steps=N ends"), ({}, "")):
        evaluate.print_unfinished(watch, "2 episodes", OmegaConf.create({"env": options}))
        err = capsys.readouterr().err
        assert err.startswith("1 of 2 episodes did not end within 4 steps")
        assert hint in err
        assert "eval_max_steps=N plays longer" in err


def test_a_trial_is_cut_after_the_steps_of_its_episodes() -> None:
    env = Trials(Counting([2, 7], [True, True]), episodes=3)
    policy = ActorCritic(env.observation_space, env.action_space, core="none", hidden_size=8)
    watch = playing.Watch(max_steps=3)
    # 9 steps: three episodes of 1 + 2; one of 28 and two more steps, 1 + 2.
    found = playing.play_trials(lambda _: policy, lambda _: env, [1, 3], True, watch=watch)
    assert found.tolist() == [[3, 3, 3], [28, 3, 0]]
    assert watch.unfinished == 1


def test_the_cut_counts_over_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([[2, 9], [9, 9], [1]])

    def make_env(num_envs: int) -> Counting:
        return Counting(next(lengths)[:num_envs], [True] * num_envs)

    env = Counting([1], [True])
    policy = ActorCritic(env.observation_space, env.action_space, core="none", hidden_size=8)
    shown: list[tuple[int, str]] = []

    class Shown(Progress):
        def show(self, done: int, detail: str = "") -> None:
            shown.append((done, detail))

    watch = playing.Watch(max_steps=5, progress=Shown("episodes", 5, shown=False))
    monkeypatch.setattr(playing, "SHOW_EVERY", -1.0)
    found = playing.play(policy, make_env, list(range(5)), chunk=2, watch=watch)
    assert found == [3, 15, 15, 15, 1]
    assert watch.unfinished == 3
    assert [done for done, _ in shown] == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 4]
    assert shown[4] == (1, "step 4 of at most 5")


def test_the_return_is_the_sum_of_rewards():
    make_env = partial(_make, "popgym-repeat")
    policy = make_policy(make_env)
    (found,) = playing.play(policy, make_env, [11])
    env = make_env(1)
    obs, state, start, total = env.reset([11]), policy.initial_state(1), torch.tensor([True]), 0.0
    for _ in range(51):
        act = policy.act(obs, state, start, deterministic=True)
        step = env.step(act.action)
        obs, state, start = step.obs, act.state, torch.tensor([False])
        total += step.reward.item()
    assert step.terminated.item()
    assert found == pytest.approx(total, abs=1e-6)


def test_summary_by_hand():
    summary = playing.summary([4.0, 0.0, 2.0, 100.0, 1.0, 3.0, -100.0, 2.0])
    assert summary["episodes"] == 8
    assert summary["return_mean"] == 1.5
    # Two scores are dropped at each end: the mean of 1, 2, 2, 3.
    assert summary["return_iqm"] == 2
    assert (summary["return_min"], summary["return_max"]) == (-100, 100)


def test_the_report_contains_the_memory_score(tmp_path: Path):
    env = OmegaConf.create({"name": "popgym-repeat", "difficulty": "easy", "previous_action": True})
    result = evaluate.report(env, {"step": 5}, [0.2, 0.31])
    assert result["memory_score"] == pytest.approx((0.255 + 0.49) / 1.49)
    evaluate.write_report(tmp_path, result)
    written = sealed.read(tmp_path / "eval.json", required=True)
    assert written == {"step": 5, **result, "returns": [0.2, 0.31]}


def test_memory_scores():
    assert memory_score("popgym-count-recall", "hard", False, -0.881) == 0
    assert memory_score("popgym-count-recall", "hard", False, 1.0) == 1
    assert memory_score("popgym-position-only-cartpole", "easy", True, 0.84) == pytest.approx(0.5)
    # Tasks solved without memory, and unknown tasks.
    assert memory_score("popgym-repeat-first", "easy", True, 1.0) is None
    assert memory_score("popgym-velocity-only-cartpole", "easy", False, 1.0) is None
    assert memory_score("gym", "easy", False, 1.0) is None


def test_every_popgym_task_has_references():
    assert set(REFERENCES) == {name for name in envs.names() if name.startswith("popgym-")}
    for name, rows in REFERENCES.items():
        assert list(rows) == ["easy", "medium", "hard"], name
        assert all(-1 <= r.memoryless <= r.optimal <= 1 for r in rows.values()), name
