"""The built site in Chromium: no errors, no page wider than the window, a search without a network.

`.ci/nightly` builds it and names its folder in RLMEM_SITE.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.runs.report.test_browser import CHROMIUM, FLAGS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("RLMEM_SITE" not in os.environ, reason="needs RLMEM_SITE, a built site"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
PAGES = ("index", "choosing", "cores", "benchmarks", "api", "sweeps", "notebooks/adaptation")
# Loads pages in frames of a given width, one after the other, and describes them.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="found"></pre><script>
const found = {}, pages = PAGES;
function next() {
  const page = pages.shift();
  if (!page) { document.querySelector("#found").textContent = JSON.stringify(found); return; }
  const frame = document.createElement("iframe");
  frame.width = WIDTH; frame.height = 900; frame.src = page + ".html";
  frame.addEventListener("load", () => setTimeout(() => {
    const wide = frame.contentDocument.documentElement;
    const images = [...frame.contentDocument.images];
    found[page] = [wide.scrollWidth, images.filter((each) => !each.naturalWidth).length];
    frame.remove();
    next();
  }, 200));
  document.body.append(frame);
}
next();
</script></body>"""


class Site(SimpleHTTPRequestHandler):
    """The files of the site, and probes of some widths."""

    def do_GET(self) -> None:
        """Send a probe, or a file."""
        if not (probe := re.fullmatch(r"/probe-(\d+)\.html", self.path)):
            super().do_GET()
            return
        text = PROBE.replace("WIDTH", probe[1]).replace("PAGES", json.dumps(PAGES)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = partial(Site, directory=os.environ["RLMEM_SITE"])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def opened(url: str, folder: Path) -> str:
    """The page after its scripts have run; asserts that its console stays empty."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'user'}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_into_the_window(width: int, address: str, tmp_path: Path) -> None:
    found = re.search(
        r'<pre id="found">(.*?)</pre>', opened(f"{address}/probe-{width}.html", tmp_path), re.S
    )
    assert found
    assert json.loads(unescape(found[1])) == {page: [width, 0] for page in PAGES}


def test_the_search_works_from_a_folder(tmp_path: Path) -> None:
    page = (Path(os.environ["RLMEM_SITE"]).absolute() / "index.html").as_uri()
    text = opened(f"{page}?q=saliency", tmp_path)
    assert re.search(r"\d+ matching documents", text)
    assert "diagnose.html" in text.partition("md-search-result__list")[2]
