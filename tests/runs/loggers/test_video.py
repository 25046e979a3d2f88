"""Videos show the first evaluation episode, and leave the training unchanged in every bit."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlmem
from rlmem import envs
from rlmem.errors import UsageError
from rlmem.runs import checkpoint
from tests.runs.loggers.common import OFF, SIZES, columns

LENGTH = 6
needs_moviepy = pytest.mark.skipif(find_spec("moviepy") is None, reason="needs moviepy")
# Pipes to ffmpeg, and a video without frames.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*Ignored saving a video:UserWarning"),
]


class Bulb(gym.Env[Any, Any]):
    """Shows 0 or 1, which the action should equal. Its brightness is the return so far."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, length: int = LENGTH) -> None:
        self.render_mode, self.length = render_mode, length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.total, self.shown = 0, 0, int(self.np_random.integers(2))
        return self.shown, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = int(action == self.shown)
        self.time, self.total = self.time + 1, self.total + reward
        self.shown = int(self.np_random.integers(2))
        return self.shown, float(reward), self.time == self.length, False, {}

    def render(self) -> Any:
        return np.full((32, 48, 3), 30 * self.total, np.uint8)


class Alone(Bulb):
    """Always renders; its constructor takes no mode."""

    def __init__(self) -> None:
        super().__init__("rgb_array")


class Dark(Bulb):
    """Does not render."""

    def __init__(self) -> None:
        super().__init__()


class Wordy(Alone):
    """Renders text."""

    def render(self) -> Any:
        return "off"


class Broken(Alone):
    """Fails to render after the first frame."""

    frames = 0

    def render(self) -> Any:
        type(self).frames += 1
        if type(self).frames > 1:
            raise RuntimeError("no more light")
        return super().render()


def options(every: Any, **more: Any) -> dict[str, Any]:
    return SIZES | {"log": OFF | {"video_every": every}} | more


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def returns_in(path: Path) -> list[int]:
    """The return that each frame of a video shows."""
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(path))
    found = next(frames)
    assert found["size"] == (48, 32)
    assert found["fps"] == 5
    return [round(np.frombuffer(frame, np.uint8).mean() / 30) for frame in frames]


@needs_moviepy
def test_the_episode_of_the_evaluation_and_an_unchanged_training() -> None:
    more = {"eval_every": 256, "checkpoint_every": 256}
    rlmem.train(Bulb, run_dir="a", **options(256, **more))
    rlmem.train(Bulb, run_dir="b", **options(None, **more))
    videos = sorted(Path("a/videos").iterdir())
    names = [f"rl-video-step-{step}-episode-0.mp4" for step in (256, 512)]
    assert [path.name for path in videos] == names
    for path, step in zip(videos, (256, 512), strict=True):
        shown = returns_in(path)
        assert len(shown) == LENGTH + 1
        assert shown[0] == 0
        assert set(np.diff(shown)) <= {0, 1}
        # The same weights on the same seed: the first episode of the evaluation.
        agent = rlmem.load("a", checkpoint=step)
        assert shown[-1] == rlmem.evaluate(agent, Bulb, episodes=1)["returns"][0]
    assert not Path("b/videos").exists()
    one, other = checkpoint.load("a").weights, checkpoint.load("b").weights
    assert all(torch.equal(one[key], other[key]) for key in one)
    tables = [columns(Path(run) / "metrics.csv") for run in ("a", "b")]
    for table in tables:
        del table["seconds"], table["steps_per_second"]
    assert tables[0] == tables[1]


@needs_moviepy
def test_an_environment_that_always_renders_and_own_options() -> None:
    rlmem.train(Alone, run_dir="a", **options("100%"))
    assert len(returns_in(Path("a/videos/rl-video-step-512-episode-0.mp4"))) == LENGTH + 1
    given = {"env.kwargs": {"length": 3}, "env.max_episode_steps": 2}
    rlmem.train(Bulb, run_dir="b", **options("100%"), **given)
    assert len(returns_in(Path("b/videos/rl-video-step-512-episode-0.mp4"))) == 3


@needs_moviepy
@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            Dark,
            "the environment cannot render: its render_mode is None, and render_mode='rgb_array'",
        ),
        (Wordy, r"render\(\) of the environment gives str, no array"),
        ("popgym-repeat", "popgym-repeat cannot render; videos are of Gymnasium's environments"),
    ],
)
def test_an_environment_that_cannot_render_is_one_line(env: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rlmem.train(env, run_dir="a", **options("50%"))
    assert not Path("a").exists()


def test_a_batch_and_a_missing_package_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = envs.make("popgym-repeat", num_envs=4)
    with pytest.raises(UsageError, match=r"video_every needs env \(or eval_env\) as a name, class"):
        rlmem.train(batch, run_dir="a", **options("50%"))
    with pytest.raises(UsageError, match=r"log\.video_every must be a number of steps, a percent"):
        rlmem.train(Bulb, run_dir="a", **options("often"))
    monkeypatch.setitem(sys.modules, "moviepy", None)
    with pytest.raises(UsageError, match=r"video_every=50% needs moviepy: pip install 'rlmem\[v"):
        rlmem.train(Bulb, run_dir="a", **options("50%"))


@needs_moviepy
def test_a_later_error_does_not_end_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    Broken.frames = 0
    assert rlmem.train(Broken, run_dir="a", **options(128)).step == 512
    lines = [each for each in capsys.readouterr().err.splitlines() if "video_every" in each]
    assert len(lines) == 1
    assert "log.video_every failed, and is off now: " in lines[0]
    assert "no more light" in lines[0]
