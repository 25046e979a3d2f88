"""A page of HTML taken apart with the standard library, and folders to report on."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from tests.runs.run_folders import write_run

# Elements without an end.
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The elements of a page, the JSON of its charts, and its text; asserts that tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.charts: list[dict[str, Any]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and data.startswith("{"):
            self.charts.append(json.loads(data))
        elif self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def attributes(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [value for _, attrs in self.elements if (value := attrs.get(name)) is not None]


LONG = "popgym-noisy-position-only-cartpole-transformer_xl-num_envs=1024-seed0"


def folders(root: Path, seeds: int = 2, rows: int = 30) -> Path:
    """Runs of two cores with evaluations, one with adaptation, and one with a diagnosis."""
    rng = np.random.default_rng(0)
    for core in ("gru", "ffm"):
        for seed in range(seeds):
            returns = np.linspace(-0.5, 0.8, rows) + rng.normal(0, 0.1, rows)
            curve = [(64 * (i + 1), float(value), 3) for i, value in enumerate(returns)]
            path = write_run(root / f"{core}{seed}", curve, [0.5, 0.7], core=core, seed=seed)
            lines = ["step,seconds,episodes,return_mean,return_std"]
            lines += [f"{step},1,4,{step / 1000},0.2" for step in (640, 1280)]
            (path / "evaluations.csv").write_text("\n".join(lines) + "\n")
    estimate = [[0.1 * k, 0.1 * k - 0.05, 0.1 * k + 0.05] for k in range(1, 6)]
    entry = {"curve": estimate, "mean": [2.5, 2.0, 3.0], "first_episode": estimate[0]}
    entry |= {"last_episode": estimate[-1], "last_minus_first": [0.4, 0.3, 0.5]}
    adaptation = {"env": "meta-bandit", "split": "heldout", "trials": 20, "episodes": 5}
    adaptation |= {"trained_episodes": 3, "deterministic": False}
    text = json.dumps(adaptation | {"scores": {"agent": entry, "oracle": entry}})
    (root / "gru0" / "eval-heldout.json").write_text(text)
    heat = np.tril(np.full((6, 6), 0.1))
    heat[:, 0] = 0.9
    saliency = {"action": {"heat": heat.tolist(), "decisions": list(range(6))}}
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    retention = {"keep": [1, 2, 4], "reset": [value] * 3, "whole": value}
    (root / "ffm1" / "diagnose").mkdir()
    (root / "ffm1" / "diagnose" / "diagnose.json").write_text(
        json.dumps({"analyses": {"saliency": saliency, "retention": retention}})
    )
    return root
