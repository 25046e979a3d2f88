"""Grids of measurements: their cells are measured once, and the tables show the finished ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cells
import mqar
import pytest
import state_tracking
import torch

from rlmem import cores
from rlmem.diagnose.tracking import GENERATORS


def test_finished_cells_are_not_measured_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def measure(name: str) -> cells.Result:
        calls.append(name)
        if calls == ["a", "b"]:
            raise KeyboardInterrupt
        return {"name": name}

    grid = [(tmp_path / f"{name}.json", partial(measure, name)) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        cells.measure_missing(grid, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    cells.measure_missing(grid, 0)
    assert calls == ["a", "b"]
    cells.measure_missing(grid, 1)
    assert calls == ["a", "b", "b", "c"]
    assert len(list(tmp_path.iterdir())) == 3


def test_contestants_have_names_and_options() -> None:
    assert cells.parse("gru") == ("gru", {})
    stack = "stack", {"layers": ["s5", "transformer_xl"], "core": "gru"}
    assert cells.parse("stack:layers=[s5,transformer_xl],core=gru") == stack
    for contestant in {*state_tracking.contestants(), *mqar.contestants()}:
        name, options = cells.parse(contestant)
        cores.make(name, input_size=8, **options)
    files = {cells.file_of("x", each).name for each in state_tracking.contestants()}
    assert len(files) == len(state_tracking.contestants())
    assert set(state_tracking.BY_THEORY) <= set(state_tracking.contestants())


def test_words_of_training_have_four_to_forty_letters() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [state_tracking.draw("z2", generator) for _ in range(300)]
    assert {batch.inputs.shape[1] for batch in batches} == set(range(4, 41))
    assert all(280 < batch.inputs.numel() <= 320 for batch in batches)


def test_the_short_convolution_is_left_out_of_state_tracking() -> None:
    assert state_tracking.options_of("gru") == ("gru", {})
    signed = {"conv_size": 1, "gate": "signed"}
    assert state_tracking.options_of("mingru:gate=signed") == ("mingru", signed)
    convolutions = {"deltanet", "gated_deltanet", "mlstm", "mom", "paragru", "s6"}
    for contestant in state_tracking.contestants():
        name, options = state_tracking.options_of(contestant)
        assert name not in convolutions or options["conv_size"] == 1


def test_the_table_of_groups_has_medians_over_seeds() -> None:
    results = [
        {"core": "gru", "group": "z2", "seed": seed, "right": {"200": right, "500": 0.5}}
        for seed, right in enumerate((0.1, 0.99, 0.97))
    ]
    rows = {row["core"]: row for row in state_tracking.table(results)}
    assert list(rows) == state_tracking.contestants()
    row = rows["gru"]
    assert row["Z2 200 / 500"] == "97 / 50"
    assert row["S5 200 / 500"] == "-"
    assert (row["by theory"], row["seeds"]) == ("all", "0 to 3")
    assert {f"{group.upper()} 200 / 500" for group in GENERATORS} < set(row)


def test_a_hybrid_is_compared_with_its_better_part() -> None:
    results = [
        {"core": core, "pairs": pairs, "width": 32, "seed": 0, "right": right, "loss": 1 - right}
        for core, pairs, right in [
            ("mom", 8, 0.9),
            ("mom", 8, 0.3),
            ("gated_deltanet", 8, 0.8),
            ("mom", 16, 0.5),
            ("gated_deltanet", 16, 0.75),
            ("mom", 32, 0.1),
        ]
    ]
    rows = {(row["width"], row["core"]): row for row in mqar.table(results)}
    row = rows["32", "mom"]
    assert (row["8 pairs"], row["32 pairs"], row["64 pairs"]) == ("90.0", "10.0", "-")
    assert row["against its better part"] == "-25.0 at least (at 16 pairs)"
    assert rows["64", "mom"]["against its better part"] == "-"
