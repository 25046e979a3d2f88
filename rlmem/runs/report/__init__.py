"""`rlmem report`: runs as one page of HTML, which needs no network.

The page has learning curves, evaluations, adaptation (`rlmem eval split=...`), use of memory
(`rlmem diagnose run=...`), differences between configurations, and versions, as far as the run
folders have them. It is written from `records`, `compare` and `stats`, like `rlmem compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from rlmem import __version__
from rlmem.errors import UsageError
from rlmem.files import atomic_write, expanded
from rlmem.runs import compare, records
from rlmem.runs.report import extras, sections

HERE = Path(__file__).parent
# A browser may load nothing, from this machine or another, for a page about a stranger's runs.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write(
    folders: Sequence[str | Path], out: Path, by: Sequence[str] = (), processes: int = 1
) -> Path:
    """Write the report of all runs in and below `folders`; returns its path.

    `by` are the options that tell groups of runs apart, as in `rlmem compare`. Long logs are read
    by several `processes`. Raises `UsageError` for a folder without runs, and for a file that
    cannot be read.
    """
    text = page(folders, by, processes)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, text)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror}") from error
    return out


def page(folders: Sequence[str | Path], by: Sequence[str] = (), processes: int = 1) -> str:
    """The report as HTML."""
    # The same run may be in several of the folders.
    paths = {path.resolve(): path for path in records.find(folders)}
    runs = records.read_all(list(paths.values()), processes)
    found = dict(zip(sections.names(runs), runs, strict=True))
    groups = compare.group(runs, by)
    places = [expanded(folder) for folder in folders]
    parts = [
        sections.runs(found),
        sections.curves(groups, found),
        sections.evaluation(groups, found),
        extras.adaptation(found, places),
        extras.memory(found),
        sections.configuration(found),
        sections.system(found),
    ]
    shown = [part for part in parts if part is not None]
    title = f"Report of {len(runs)} runs" if len(runs) > 1 else f"Report of {next(iter(found))}"
    links = "".join(f'<a href="#{part.name}">{escape(part.title)}</a>' for part in shown)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_file('page.css')}</style></head><body>",
            f"<header><h1>{escape(title)}</h1><p>rlmem {__version__}, {now}</p>",
            f"<nav>{links}</nav></header><main>",
            *(part.html() for part in shown),
            f"</main><script>\n{_file('page.js')}</script></body></html>\n",
        ]
    )


def _file(name: str) -> str:
    return (HERE / name).read_text("utf-8")
