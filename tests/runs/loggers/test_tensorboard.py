"""TensorBoard: the numbers of the CSV files in groups, and hyper-parameters with the return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data as begin
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import rlmem
from rlmem import algos
from rlmem.cli.hydra_errors import compose
from rlmem.runs import checkpoint
from rlmem.runs.build import build
from rlmem.runs.loggers.base import Run
from rlmem.runs.loggers.tensorboard_log import TensorBoardLogger, tag
from tests.runs.loggers.common import OFF, SIZES, Curves, columns, logged

QUIET = {"log": {"progress": False}, "eval_every": "50%"}


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def events(run: Path | str) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def curves(run: Path | str) -> Curves:
    """All scalars in the events of a run, each at most once for a step."""
    found: Curves = {}
    read = events(run)
    for name in read.Tags()["scalars"]:
        points = [(each.step, each.value) for each in read.Scalars(name)]
        assert len(dict(points)) == len(points), name
        found[name] = dict(points)
    return found


def float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def expected(run: Path) -> Curves:
    """The numbers of the CSV files, by the names and in the precision of the events."""
    return {
        key if key.startswith("eval/") else tag(key): {at: float32(v) for at, v in values.items()}
        for key, values in logged(run).items()
    }


def log(run: Path, rows: dict[int, dict[str, float]], start: int = 0) -> None:
    """Write rows of metrics by step."""
    logger = TensorBoardLogger(Run(run, start, {}))
    training = object.__new__(rlmem.Training)  # only its numbers count here
    for training.step, row in rows.items():
        training.row = {"step": training.step, **row}
        logger.on_iteration(training, {})
    logger.close(failed=True)


ON_POLICY = ["algo.num_minibatches=2", "algo.num_steps=32"]
REPLAY = ["algo.learning_starts=0", "algo.replay.length=8", "algo.replay.batch_size=4"]
DATASET = ["algo.dataset=data", "algo.length=60", "algo.batch_size=1", "algo.num_updates=1"]
OPTIONS = {
    "ppo": [*ON_POLICY, "record=data", "total_steps=256"],
    "pqn": ON_POLICY,
    **{name: ["algo.num_steps=64", *REPLAY] for name in ("r2d2", "sac", "amago")},
    **dict.fromkeys(("dt", "ad"), DATASET),
}


def test_every_metric_of_every_algorithm_is_in_a_group() -> None:
    assert set(OPTIONS) == set(algos.names())
    for name, options in OPTIONS.items():
        sizes = ["num_envs=4", "hidden_size=8", "run_dir=x", *options]
        env, _, algo = build(compose("train", ["core=gru", f"algo={name}", *sizes]))
        metrics = [algo.iterate(part) for part in (0.0, 0.5)]
        env.close()
        log(Path(name), dict(enumerate(metrics)))
        found = curves(name)
        assert len(found) == len(metrics[1])
        groups = {"loss"} if name in ("dt", "ad") else {"loss", "episode"}
        assert {each.partition("/")[0] for each in found} == groups
        episodes = {each for each in metrics[1] if each.startswith("episode")}
        assert episodes == (
            {"episodes", "episode_return", "episode_length"} if len(groups) == 2 else set()
        )
        for key, value in metrics[1].items():
            assert found[tag(key)][1] == pytest.approx(float32(value), nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("episode_return", "episode/return"),
        ("episodes", "episode/episodes"),
        ("seconds", "time/seconds"),
        ("steps_per_second", "time/steps_per_second"),
        ("policy_loss", "loss/policy_loss"),
        ("learning_rate", "loss/learning_rate"),
    ],
)
def test_groups(metric: str, name: str) -> None:
    assert tag(metric) == name


def set_aside(run: Path) -> None:
    """Make the events of a run older: their files are sorted by the second of their beginning."""
    for number, path in enumerate(sorted(run.glob("events.*"))):
        path.rename(run / f"events.out.tfevents.{number:010}")


def test_a_resumed_run_goes_on() -> None:
    sizes = SIZES | QUIET | {"total_steps": 256, "checkpoint_every": None}
    rlmem.train("popgym-repeat", run_dir="a", **sizes)
    set_aside(Path("a"))
    rlmem.train(resume="a", total_steps=512)
    assert list(columns(Path("a/metrics.csv"))["seconds"]) == [128, 256, 384, 512]
    assert curves("a") == expected(Path("a"))


def test_events_after_the_last_checkpoint_are_hidden(tmp_path: Path) -> None:
    values = {10: 1.25, 20: 2.5, 30: 3.75}
    log(tmp_path, {step: {"value_loss": value} for step, value in values.items()})
    set_aside(tmp_path)
    log(tmp_path, {30: {"value_loss": -3.75}, 40: {"value_loss": -5.0}}, start=20)
    wanted = {10: 1.25, 20: 2.5, 30: -3.75, 40: -5.0}
    assert curves(tmp_path) == {"loss/value_loss": wanted}


def plugin(run: str) -> dict[str, bytes]:
    return dict(events(run).PluginTagToContent("hparams"))


def hparams_tab(folder: str) -> list[Any]:
    """The rows of TensorBoard's tab for the runs in a folder, from its own backend."""
    runs = EventMultiplexer().AddRunsFromDirectory(folder).Reload()
    provider = MultiplexerDataProvider(runs, folder)
    plugin = Context(TBContext(logdir=folder, data_provider=provider))
    asked = ListSessionGroupsRequest(slice_size=10, allowed_statuses=[0, 1, 2, 3])
    return [*Handler(RequestContext(), plugin, "id", asked).run().session_groups]


def test_hyper_parameters_with_the_final_return() -> None:
    log = {"log": {"progress": False}}
    result = rlmem.train("popgym-repeat", run_dir="a", **SIZES, **log)
    found = plugin("a")
    assert set(found) == {f"_hparams_/{part}" for part in PARTS}
    values = begin(found["_hparams_/session_start_info"]).hparams
    assert values["algo.num_steps"].number_value == 32
    assert values["core.name"].string_value == "gru"
    assert values["seed"].number_value == 0
    assert not {key for key in values if key.startswith(("run_dir", "resume", "record", "log"))}
    listed = HParamsPluginData.FromString(found["_hparams_/experiment"]).experiment
    assert {each.name for each in listed.hparam_infos} == set(values)
    assert curves("a")["eval/return_mean"] == {512: float32(result.return_mean)}
    # What the tab shows: the final return, also without `eval_every`.
    (group,) = hparams_tab("a")
    shown = {each.name.tag: each.value for each in group.metric_values}
    assert shown["eval/return_mean"] == float32(result.return_mean)
    assert shown["episode/return"] == float32(result.metrics["episode_return"][-1])
    assert group.hparams["core.name"].string_value == "gru"


PARTS = ("experiment", "session_start_info", "session_end_info")


def test_an_interrupted_session_has_no_end() -> None:
    class Failing(rlmem.Callback):
        def on_iteration(self, training: rlmem.Training, metrics: object) -> None:
            raise ZeroDivisionError

    sizes = SIZES | {"log": {"progress": False}}
    with pytest.raises(ZeroDivisionError):
        rlmem.train("popgym-repeat", run_dir="a", callbacks=[Failing()], **sizes)
    assert set(plugin("a")) == {f"_hparams_/{part}" for part in PARTS[:2]}


def test_it_can_be_turned_off_and_leaves_the_weights() -> None:
    rlmem.train("popgym-repeat", run_dir="a", **SIZES, log=OFF)
    rlmem.train("popgym-repeat", run_dir="b", **SIZES, log={"progress": False})
    assert not list(Path("a").glob("events.*"))
    one, other = checkpoint.load("a").weights, checkpoint.load("b").weights
    assert all(torch.equal(one[key], other[key]) for key in one)
