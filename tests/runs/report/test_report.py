"""The page of `rlmem report`: all runs and values, no addresses, damaged and hostile folders."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rlmem.errors import UsageError
from rlmem.runs import plot_style, records, report
from rlmem.runs.plot_style import Look
from rlmem.runs.records import Curve
from rlmem.runs.report import chart, extras, lines, sections
from tests.runs.report.pages import Page, folders
from tests.runs.run_folders import write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders(tmp_path_factory.mktemp("report") / "runs")


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return report.page([root])


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_run_is_there_with_the_last_value_of_its_curve(root: Path, page: Page) -> None:
    names = page.attributes("data-run")
    assert sorted(names) == ["ffm0", "ffm1", "gru0", "gru1"]
    for name, last in zip(names, page.attributes("data-last"), strict=True):
        curve = records.read(root / name).curve
        assert float(last) == pytest.approx(curve.returns[-1], rel=1e-5)
        (chart,) = [c for c in page.charts if [each["name"] for each in c["lines"]] == [name]]
        # Thirty rows have a bucket each; smoothing averages over two.
        (line,) = chart["lines"]
        assert line["x"][-1] == curve.steps[-1]
        assert line["low"][-1] == line["high"][-1] == pytest.approx(curve.returns[-1], rel=1e-4)
        assert line["y"][-1] == pytest.approx(curve.returns[-2:].mean(), rel=1e-3)


def test_groups_show_the_mean_and_the_extremes_of_all_their_rows(root: Path, page: Page) -> None:
    (chart,) = [c for c in page.charts if len(c["lines"]) == 2 and "gru (2 runs)" in str(c)]
    (line,) = [each for each in chart["lines"] if each["name"] == "gru (2 runs)"]
    seeds = np.stack([records.read(root / f"gru{seed}").curve.returns for seed in (0, 1)])
    np.testing.assert_allclose(line["low"], seeds.min(axis=0), rtol=1e-4)
    np.testing.assert_allclose(line["high"], seeds.max(axis=0), rtol=1e-4)
    wanted = plot_style.smooth(seeds.mean(axis=0), 2)
    np.testing.assert_allclose(line["y"], wanted, rtol=1e-3, atol=1e-4)


def test_the_page_needs_nothing_else(text: str, page: Page) -> None:
    for name in ("src", "href", "data", "action", "poster", "srcset"):
        assert all(value.startswith("#") for value in page.attributes(name))
    assert not re.search(r"https?:|@import|url\(|//[a-z]", text.replace("// The", ""))
    targets = {value for _, attrs in page.elements if (value := attrs.get("id"))}
    assert {f"#{name}" for name in targets} == set(page.attributes("href"))
    assert "default-src 'none'" in text


def test_all_sections_have_their_values(page: Page) -> None:
    words = " ".join(page.words)
    for part in ("Adaptation", "gru0: meta-bandit, heldout", "20 trials of 5 episodes", "sampled"):
        assert part in words
    (agent,) = [line for c in page.charts if "episode" in c["label"] for line in c["lines"][:1]]
    assert (agent["name"], agent["y"]) == ("agent", [0.1, 0.2, 0.3, 0.4, 0.5])
    assert "ffm1: saliency of the action" in words
    (line,) = [
        each
        for chart in page.charts
        for each in chart["lines"]
        if len(chart["lines"]) == 4 and each["name"] == "ffm0"
    ]
    assert line["y"] == [0.64, 1.28]
    # Standard error 0.2 / sqrt(4).
    np.testing.assert_allclose(line["high"], [0.64 + 0.196, 1.28 + 0.196], rtol=1e-4)


def test_options_that_differ_are_listed_apart(root: Path) -> None:
    runs = {path.name: records.read(path) for path in records.find([root])}
    differing, equal = sections.configuration(runs).parts
    assert "<td>core.name</td>" in differing
    assert "<td class=n>0</td>" in differing or "<td>0</td>" in differing  # seeds
    assert "algo.gamma" in equal
    assert "algo.gamma" not in differing


def test_no_row_is_hidden_by_fewer_points() -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    curve = Curve(np.arange(1, count + 1) * 8, rng.normal(size=count), np.ones(count))
    run = records.Record(Path("a"), {}, curve, count * 8, 1.0, None)
    drawn = lines.line("a", [run], float(count * 8), Look(plot_style.COLORS[0]))
    assert len(drawn.x) == lines.BUCKETS
    place = np.searchsorted(drawn.x, curve.steps - 1e-9)
    assert (curve.returns >= drawn.low[place]).all()
    assert (curve.returns <= drawn.high[place]).all()
    assert {curve.returns.min(), curve.returns.max()} <= {*drawn.low, *drawn.high}


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    rows = [(64, float("nan"), 1), (128, float("inf"), 1), (192, 0.5, 1), (256, 0.25, 1)]
    write_run(tmp_path / "a", rows, [0.5])
    write_run(tmp_path / "b", [(64, float("nan"), 1)], core="ffm")
    write_run(tmp_path / "c", [], core="s5")
    text = report.page([tmp_path])
    page = Page(text)
    assert not re.search(r'd="[^"]*(nan|inf)', text)
    (chart,) = [c for c in page.charts if c["label"] == "steps"]
    (line,) = chart["lines"]
    assert [line[key] for key in ("x", "y", "low", "high")] == [[256], [0.375], [0.25], [0.5]]
    assert "No episode has ended yet in: c." in text


def test_points_that_are_not_finite_are_left_out_of_charts() -> None:
    y = np.array([0.0, np.nan, 2.0, np.inf])
    look = Look(plot_style.COLORS[0])
    line = chart.Line("a", np.arange(4.0), y, y - 1, y + 1, look)
    drawn = chart.html(chart.Chart("t", "x", "y", [line], {"level": 1.0}))
    (found,) = Page(drawn).charts
    assert (found["lines"][0]["x"], found["lines"][0]["high"]) == ([0.0, 2.0], [1.0, 3.0])
    assert not re.search(r"nan|inf", drawn)
    nothing = line._replace(y=np.full(4, np.nan))
    assert chart.html(chart.Chart("t", "x", "y", [nothing])) == "<p>t: no finite values</p>"


def test_names_are_text(tmp_path: Path) -> None:
    bad = "</script><b onload=1>&"
    write_run(tmp_path / "a&<b>", [(1, 0.0, 1)], [0.0], core=bad, note=bad)
    write_run(tmp_path / "x", [(1, 0.0, 1)], [0.0], core="gru", note="")
    text = report.page([tmp_path])
    page = Page(text)
    assert "<b onload" not in text
    assert "a&<b>" in page.attributes("data-run")


def test_a_run_in_two_folders_is_shown_once(tmp_path: Path) -> None:
    for name in ("x/a", "x/b/c"):
        write_run(tmp_path / name, [(64, 0.5, 1)], [0.5])
    found = Page(report.page([tmp_path, tmp_path / "x", tmp_path / "x/../x/a"]))
    assert sorted(found.attributes("data-run")) == ["a", "b/c"]


def test_a_small_heat_map_keeps_the_largest_values() -> None:
    heat = np.zeros((200, 300))
    heat[17, 250] = 0.7
    heat[:10, 11:] = np.nan
    small, rows, columns = extras.pooled(heat)
    assert small.shape == (extras.ROWS, extras.COLUMNS)
    (row,), (column,) = np.nonzero(np.nan_to_num(small))
    assert small[row, column] == 0.7
    assert rows[row] <= 17 < rows[row + 1]
    assert columns[column] <= 250 < columns[column + 1]
    assert np.isnan(small[0, -1])


def test_labels_are_without_their_common_words() -> None:
    assert lines.shortened(["gru a=1 b=2", "gru a=1 b=3"]) == ["b=2", "b=3"]
    assert lines.shortened(["gru", "gru a=1"]) == ["gru", "gru a=1"]
    assert lines.shortened(["gru"]) == ["gru"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("gru0/eval-heldout.json", "{"),
        ("gru0/eval-heldout.json", "[" * 200_000),
        ("gru0/eval-heldout.json", '{"scores": {"agent": {}}}'),
        ("ffm1/diagnose/diagnose.json", "[1]"),
        ("ffm1/diagnose/diagnose.json", '{"analyses": {"saliency": {"action": {"heat": [1]}}}}'),
        ("ffm1/evaluations.csv", "step,return_mean,return_std,episodes\n1,x,1,1\n"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: str) -> None:
    folders(tmp_path / "runs", rows=3)
    (tmp_path / "runs" / file).write_text(content)
    with pytest.raises(UsageError, match=Path(file).name) as caught:
        report.page([tmp_path / "runs"])
    assert "\n" not in str(caught.value)
