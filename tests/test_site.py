"""The documentation site: its menu, its tables of measurements and errors, its links and notebooks.

`.ci/nightly` builds it with mkdocs, which also checks all links and names.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import site_hooks
import yaml

import rlmem

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CORES = {path.stem for path in (ROOT / "rlmem/configs/core").glob("*.yaml")}


def rows(page: str) -> list[list[str]]:
    """The cells of the rows of all tables of a page, without headers."""
    lines = re.findall(r"^\| (.*) \|$", (DOCS / page).read_text(), re.M)
    return [re.split(r"\s*\|\s*", line.strip()) for line in lines]


def test_every_page_is_in_the_menu() -> None:
    found = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = {
        page for part in found for entries in part.values() for e in entries for page in e.values()
    }
    written = {path.name for path in DOCS.glob("*.md")} | set(site_hooks.OUTSIDE.values())
    assert pages == written


def test_numbers_of_the_choice_are_those_of_the_result_pages() -> None:
    table = [cells for cells in rows("choosing.md") if "results/" in cells[-1]]
    assert len(table) >= 10
    for cells in table:
        (target,) = re.findall(r"\((results/[\w-]+\.md)\)", cells[-1])
        text = (DOCS / target).read_text()
        numbers = re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", re.sub(r"`[^`]*`", "", cells[3]))
        missing = [
            each
            for each in numbers
            if not re.search(rf"(?<![\d.,]){re.escape(each)}(?![\d,])", text)
        ]
        # Sizes of the question, which the page spells otherwise.
        assert set(missing) <= {"32", "2", "200"}, (cells[0], missing)
        for core in re.findall(r"`([^`]+)`", cells[1] + cells[2]):
            assert core in CORES
            assert re.search(rf"\b{core}\b", text), (cells[0], core)


def test_the_recommended_core_is_good_in_the_named_number_of_rows() -> None:
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    (core, count) = re.findall(
        r"`(\w+)`\. It is among the good ones of (\w+) of these rows",
        (DOCS / "choosing.md").read_text(),
    )[0]
    good = [cells for cells in rows("choosing.md") if f"`{core}`" in cells[1]]
    assert len(good) == words.index(count)


@cache
def strings() -> str:
    """All texts of the package, one a line; values in them are left out."""
    found = []
    for path in sorted((ROOT / "rlmem").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("message", [cells[0] for cells in rows("errors.md")[2:]])
def test_messages_are_those_of_the_code(message: str) -> None:
    text = message.strip("`").replace("pip install 'rlmem[train]'", "")
    parts = [part.strip(" :()") for part in text.replace("hydra-core", "...").split("...")]
    kept = [part for part in parts if len(part) > 3]
    assert kept
    for part in kept:
        assert part in strings(), part


def test_links_lead_to_pages_of_the_site() -> None:
    text = (
        "[a](../README.md#use) [b](results/x.md) [c](../rlmem/registry.py) [d](guide.md#runs) "
        "[e](https://a.b) ![f](learning.png) [g](#here) [h](../examples)\n"
        "```\n[i](../README.md)\n```"
    )
    found = site_hooks.linked(text, "docs", "guide.md")
    assert found == (
        "[a](index.md#use) b c [d](guide.md#runs) [e](https://a.b) ![f](learning.png) [g](#here) "
        "[h](gallery.md)\n```\n[i](../README.md)\n```"
    )
    inside = site_hooks.linked("[a](../README.md) [b](cores.md)", "docs/results", "results/x.md")
    assert inside == "a b"
    notebook, picture = "[a](adaptation.ipynb)", "![b](data:image/png;base64,QUJD)"
    pages = ("notebooks/adaptation.md", "notebooks/other.md")
    found = [site_hooks.linked(notebook + picture, "docs/notebooks", page) for page in pages]
    assert found == [notebook + picture, notebook.replace("ipynb", "md") + picture]
    assert site_hooks.linked("[a](docs/guide.md#x)", "", "index.md") == "[a](guide.md#x)"


def test_a_notebook_is_a_page_with_its_outputs(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "display_data", "data": {"image/png": "QUJD\n"}},
            ],
        },
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert site_hooks.notebook(path).split("\n\n") == [
        "# Title\ntext",
        "```python\nprint(1)\n```",
        "```text\n1\n```",
        "![output](data:image/png;base64,QUJD)",
        "[This notebook](a.ipynb)",
    ]


def test_the_citation_is_of_this_version() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (found["version"], found["license"]) == (project["version"], project["license"])
    assert rlmem.__version__ == project["version"]
    assert found["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(found)


def test_the_changelog_has_the_sections_of_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert versions[1] == f"[{rlmem.__version__}] - {citation['date-released']}"
    assert all(re.fullmatch(r"\[[\d.]+\] - \d{4}-\d\d-\d\d", each) for each in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds
