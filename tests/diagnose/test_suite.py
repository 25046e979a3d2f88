"""The suite: results in files, resumed ones, scores, costs and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from rlmem import cores
from rlmem.cli.main import main
from rlmem.diagnose import cost, duration, rates, report, suite
from rlmem.diagnose.question import Batch
from rlmem.diagnose.reader import Reader, accuracy
from rlmem.errors import UsageError

SMALL = ["core=gru,none", "questions=rewrite-bit,cost", "effort=0.01", "width=8", "jobs=1"]


def test_the_command_writes_results_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    arguments = ["diagnose", *SMALL, f"dir={folder}"]
    assert main(arguments) == 0
    first = capsys.readouterr()
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "diagnose.md",
        "diagnose.png",
        "gru-cost-seed0.json",
        "gru-rewrite-bit-seed0.json",
        "none-cost-seed0.json",
        "none-rewrite-bit-seed0.json",
    ]
    found = json.loads((folder / "gru-rewrite-bit-seed0.json").read_text())
    assert found["steps"] == 6
    assert set(found["accuracy"]) == {"often", "seldom"}
    (folder / "none-rewrite-bit-seed0.json").unlink()
    before = (folder / "gru-rewrite-bit-seed0.json").stat().st_mtime_ns
    assert main(arguments) == 0
    second = capsys.readouterr()
    assert second.out == first.out  # the same numbers, the costs from their files
    assert re.findall(r"\] (.*): score", second.err) == ["none rewrite-bit seed 0"]
    assert (folder / "gru-rewrite-bit-seed0.json").stat().st_mtime_ns == before
    assert main([*arguments, "width=16"]) == 2
    assert "has results with width=8, not 16: give another dir" in capsys.readouterr().err


def test_results_of_several_seeds_have_intervals(tmp_path: Path) -> None:
    tasks = suite.tasks(["none"], ["rewrite-bit"], [0, 1, 2], 8, 0.01)
    results = [{**task.settings, "score": 0.1 * task.seed} for task in tasks]
    table = report.score_table(results)
    # Student's t for 3 values with a deviation of 0.1: 4.303 * 0.1 / sqrt(3).
    assert table.rows == [["none", "0.10 ± 0.25", "0.10"]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["questions=tracking"], "unknown question 'tracking'"),
        (["core=grru"], "unknown core 'grru'"),
        (["gru"], "rlmem diagnose takes core=NAME or run=DIR, not gru"),
        (["effort=0"], "effort must be positive, not 0.0"),
        (["effort=much"], "effort must be a number, not 'much'"),
        (["seeds=none"], "seeds must be a number of seeds or a list"),
        (["jobs=0"], "jobs must be"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_the_list_names_every_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "list=true"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in suite.QUESTIONS)


def test_families_choose_their_questions() -> None:
    assert suite.chosen(["rewrite", "delay"]) == [
        "delay",
        "rewrite-latest",
        "rewrite-bit",
        "rewrite-forget",
    ]


def test_a_score_is_between_chance_and_the_optimum() -> None:
    question = suite.QUESTIONS["rewrite-bit"]
    assert [question.score(x) for x in (0.4, 0.5, 0.75, 1.0)] == [0, 0, 0.5, 1]


def test_accuracy_carries_the_state_over_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Reader("gru", 10, 8, 16)
    batch = duration.copy(20, 50, torch.Generator().manual_seed(0))
    whole = accuracy(model, batch)
    right = (model(batch).argmax(-1) == batch.answer)[batch.answer >= 0].float().mean().item()
    assert whole == pytest.approx(right)
    monkeypatch.setattr("rlmem.diagnose.reader.PIECE", 7)
    assert accuracy(model, batch) == pytest.approx(whole)


def test_influence_is_the_slope_of_an_output_by_the_first_input() -> None:
    torch.manual_seed(0)
    model = Reader("gru", 17, 8, 4)
    found = duration.influence(model, [1, 3, 8], rows=3)
    generator = torch.Generator().manual_seed(0)
    tokens = 8 + torch.randint(8, (3, 9), generator=generator)
    direction = torch.randn(3, 4, generator=generator)
    direction /= direction.norm(dim=1, keepdim=True)
    start = torch.zeros(3, 9, dtype=torch.bool)
    start[:, 0] = True
    for k, value in zip([1, 3, 8], found, strict=True):
        # One scan from the first input, instead of pieces that carry the state.
        x = model.embed(tokens).detach()[:, : k + 1].requires_grad_()
        y, _ = model.core.scan(x, model.core.initial_state(3), start[:, : k + 1])
        (slope,) = torch.autograd.grad((y[:, -1] * direction).sum(), x)
        assert value == pytest.approx(slope[:, 0].norm(dim=1).mean().item(), rel=1e-5)


def test_step_sizes_follow_the_sampling_rate() -> None:
    model = Reader("s5", 1, 4, 8, continuous=True)
    twice = rates.rescaled(model, "32 per second")
    before, after = model.core.state_dict(), twice.core.state_dict()  # type: ignore[union-attr]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"log_step"}
    half = after["log_step"].exp() / before["log_step"].exp()
    torch.testing.assert_close(half, torch.full_like(half, 0.5))


@pytest.mark.parametrize("core", ["gru", "s5", "ffm", "transformer_xl", "none"])
def test_widths_of_nearly_equal_parameters(core: str) -> None:
    width = cost.width_for(core, 20_000)
    found = abs(cost.count(core, width) - 20_000)
    for other in (width - 8, width + 8):
        if other in cost.WIDTHS:
            assert abs(cost.count(core, other) - 20_000) >= found


def test_costs_of_a_gru() -> None:
    found = cost.cost("gru", 5_000)
    core = cores.make("gru", input_size=found.width)
    assert found.parameters == sum(p.numel() for p in core.parameters())
    assert found.state_bytes == 4 * found.width
    assert found.step_us > 0
    assert found.scan_ns > 0


def test_damaged_results_are_named(tmp_path: Path) -> None:
    task = suite.Task("gru", "delay", 0)
    (tmp_path / task.file).write_text("{}")
    with pytest.raises(UsageError, match="is not a result of rlmem diagnose: delete it"):
        suite.read(tmp_path, task)


def test_a_batch_has_one_start_per_row() -> None:
    for question in suite.QUESTIONS.values():
        batch: Batch = question.train(4, torch.Generator().manual_seed(0))
        assert batch.start[:, 0].all()
        assert not batch.start[:, 1:].any()
