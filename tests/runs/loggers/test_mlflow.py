"""MLflow: its store has the numbers of the CSV files and the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlmem
from rlmem.runs.loggers.base import Run
from rlmem.runs.loggers.mlflow_log import MlflowLogger
from rlmem.runs.records import flat
from tests.runs.loggers.common import OFF, SIZES, Curves, logged

pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def sizes(uri: str) -> dict[str, Any]:
    log = {"log": OFF | {"mlflow": True, "mlflow_uri": uri, "project": "memory"}}
    return SIZES | log | {"total_steps": 256, "eval_every": "50%"}


def curves(client: Any, run: Any) -> Curves:
    """All numbers of a run, each once for a step."""
    found: Curves = {}
    for key in run.data.metrics:
        points = [
            (each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)
        ]
        assert len(dict(points)) == len(points), key
        found[key] = dict(points)
    return found


@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # MLflow's own call
@pytest.mark.parametrize(
    "uri",
    [
        "file:{}/store",
        # Making the tables takes seconds.
        pytest.param("sqlite:///{}/store.db", marks=pytest.mark.slow),
    ],
)
def test_numbers_and_configuration_also_after_resuming(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = uri.format(tmp_path)
    rlmem.train("popgym-repeat", run_dir="a", **sizes(uri))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("memory")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("a", "FINISHED")
    assert json.loads(Path("a/loggers.json").read_text()) == {"mlflow": run.info.run_id}
    assert curves(client, run) == logged(Path("a"))
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    shown = {k: v for k, v in config.items() if k not in ("run_dir", "resume", "record", "log")}
    assert run.data.params == {key: str(value) for key, value in flat(shown)}

    # The place is outside of the run folder, so it is trusted or given again.
    rlmem.train(resume="a", total_steps=512, trust=True)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("a", "FINISHED")
    found = curves(client, run)
    assert list(found["policy_loss"]) == [128, 256, 384, 512]
    assert found == logged(Path("a"))


def test_rows_are_sent_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    clock = [1000.0]
    monkeypatch.setattr("rlmem.runs.loggers.mlflow_log.time.time", lambda: clock[-1])
    uri = f"file:{tmp_path}/store"
    logger = MlflowLogger(Run(tmp_path, 0, {}), "memory", uri)
    client, id = MlflowClient(tracking_uri=uri), Run(tmp_path, 0, {}).saved_id("mlflow")
    training = object.__new__(rlmem.Training)  # only its numbers count here
    stored = []
    for training.step, now in ((1, 1000.0), (2, 1001.0), (3, 1002.5), (4, 1002.6)):
        clock.append(now)
        training.row = {"step": training.step, **{f"m{i}": i / 8 for i in range(600)}}
        logger.on_iteration(training, {})
        stored.append([each.step for each in client.get_metric_history(id, "m599")])
    assert stored == [[1], [1], [1, 2, 3], [1, 2, 3]]
    logger.close(failed=False)
    history = client.get_metric_history(id, "m0")
    assert [(each.step, each.timestamp) for each in history] == [
        *((1, 1_000_000), (2, 1_001_000), (3, 1_002_500), (4, 1_002_600))
    ]


class Failing(rlmem.Callback):
    """Fails at the second iteration."""

    def on_iteration(self, training: rlmem.Training, metrics: object) -> None:
        if training.step == 256:
            raise ZeroDivisionError


def test_a_failed_run_is_marked(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"file:{tmp_path}/store"
    with pytest.raises(ZeroDivisionError):
        rlmem.train("popgym-repeat", run_dir="a", callbacks=[Failing()], **sizes(uri))
    id = json.loads(Path("a/loggers.json").read_text())["mlflow"]
    run = MlflowClient(tracking_uri=uri).get_run(id)
    assert run.info.status == "FAILED"


def test_a_bad_store_does_not_end_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    result = rlmem.train("popgym-repeat", run_dir="a", **sizes("nothing://here"))
    assert result.step == 256
    lines = [each for each in capsys.readouterr().err.splitlines() if "mlflow" in each]
    assert len(lines) == 1
    assert lines[0].startswith("log.mlflow failed, and is off now: ")
