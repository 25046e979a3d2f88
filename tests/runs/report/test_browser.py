"""The page of `rlmem report` in Chromium, where it is installed: no errors, curves, no overflow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from rlmem.runs import report
from tests.runs.report.pages import LONG, folders
from tests.runs.run_folders import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync hide-scrollbars"
MORE = "disable-background-networking disable-component-update enable-logging=stderr"
FLAGS = [f"--{name}" for name in f"{SWITCHES} {MORE}".split()]

# Runs in a frame of the given width, moves the pointer over each chart, and describes the page.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body><iframe width="WIDTH" height="900"
srcdoc="PAGE"></iframe><pre id="found"></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument;
  const boxes = [...page.querySelectorAll("path.line")].map((each) => each.getBoundingClientRect());
  for (const plot of page.querySelectorAll(".plot")) {
    const box = plot.getBoundingClientRect();
    const place = { clientX: box.left + box.width, clientY: box.top + 5, bubbles: true };
    plot.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", place));
  }
  const wide = page.documentElement;
  document.querySelector("#found").textContent = JSON.stringify({
    width: wide.clientWidth, needed: wide.scrollWidth,
    lines: boxes.length, empty: boxes.filter((box) => box.width < 20).length,
    tips: [...page.querySelectorAll(".tip:not([hidden])")].map((each) => each.textContent),
    cut: [...page.querySelectorAll(".x-axis span, .y-axis span")].filter((each) => {
      const box = each.getBoundingClientRect();
      return box.left < 0 || box.right > wide.clientWidth + 1;
    }).map((each) => each.textContent),
    labels: [...page.querySelectorAll(".ends span")].filter((e) => e.offsetParent).length,
  });
});
</script></body>"""


def describe(page: str, width: int, folder: Path) -> dict[str, object]:
    """What Chromium shows of a page at a width; asserts that its console stays empty."""
    probe = PROBE.replace("WIDTH", str(width)).replace("PAGE", escape(page))
    path = folder / f"probe-{width}.html"
    path.write_text(probe)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / f'user-{width}'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found
    return dict(json.loads(unescape(found[1])))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_in_a_browser(width: int, tmp_path: Path) -> None:
    root = folders(tmp_path / "runs")
    write_run(root / LONG, [(640, 0.1, 3), (1280, 0.2, 3)], [0.1], core=LONG, env=LONG)
    found = describe(report.page([root]), width, tmp_path)
    assert found["needed"] == found["width"] == width
    # Three groups, five runs, four evaluations, two players, one line of retention.
    assert (found["lines"], found["empty"]) == (15, 0)
    assert found["cut"] == []
    assert isinstance(found["tips"], list)
    assert len(found["tips"]) == 10
    assert any("agent: 0.5 [0.45, 0.55]" in tip for tip in found["tips"])
    assert found["labels"] == (13 if width == 1280 else 0)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_an_error_in_the_page_is_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="CONSOLE"):
        describe("<script>nothing.at.all()</script>", 390, tmp_path)
