"""A pytest plugin that reports every test to `gpu_check.py` as it ends.

A test that leaves the CUDA device unusable ends its process: pytest-xdist starts another one for
the remaining tests. A file that needs a package that is missing here counts as skipped.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from gpu_check_worker import BROKEN, emit, healthy

MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
LONGEST = 6000  # characters of a traceback


class Plugin:
    """Reports from the main process; in a worker of xdist, only watches the device."""

    def __init__(self, config: pytest.Config) -> None:
        self.worker = hasattr(config, "workerinput")
        self.reported: set[str] = set()
        self.failed = False
        if not self.worker:
            emit("ready")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items and not self.worker:
            emit("planned", count=len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        emit("planned", count=len(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if self.worker or not report.failed or report.nodeid in self.reported:
            return
        self.reported.add(report.nodeid)
        text = str(report.longrepr)
        if found := MISSING.search(text):
            emit("test", file=report.nodeid, outcome="skipped", seconds=0.0)
            emit("note", text=f"{report.nodeid} needs {found[1]}: skipped")
        else:
            self._fail(report.nodeid, text, 0.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed
        if self.worker:
            return
        file = report.nodeid.split("::")[0]
        if report.failed and report.nodeid not in self.reported:
            self.reported.add(report.nodeid)
            self._fail(report.nodeid, report.longreprtext, report.duration)
        elif report.skipped or (report.passed and report.when == "call"):
            emit("test", file=file, outcome=report.outcome, seconds=report.duration)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        # After xdist's own hook, which tells the main process about the test.
        if self.worker and self.failed and not healthy("cuda"):
            os._exit(BROKEN)
        self.failed = False

    def pytest_sessionfinish(self) -> None:
        if not self.worker:
            emit("done")

    def _fail(self, test: str, text: str, seconds: float) -> None:
        emit("test", file=test.split("::")[0], outcome="failed", seconds=seconds)
        lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
        # Without such a line the worker has crashed, which the last line says.
        error = (lines or text.strip().splitlines()[-1:] or [""])[0]
        emit("failure", title=test, error=error, minor=False, traceback=text[-LONGEST:])


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Plugin(config), "gpu_check")
