"""Pages written from code and YAML are up to date, and the README's tables agree with them."""

from __future__ import annotations

import fnmatch
import re

import generate_pages as pages
import pytest

README = (pages.ROOT / "README.md").read_text()
TABLES = {"core": "Cores", "env": "Environments", "algo": "Algorithms"}


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_page_is_up_to_date(name: str) -> None:
    assert (pages.DOCS / name).read_text() == pages.PAGES[name](), (
        "run python scripts/generate_pages.py"
    )


@pytest.mark.parametrize("group", TABLES)
def test_every_yaml_file_has_its_docstring(group: str) -> None:
    found = pages.entries(group)
    assert set(found) == {path.stem for path in (pages.CONFIGS / group).glob("*.yaml")}
    assert all(entry.module and len(entry.title) > 10 for entry in found.values())


def test_sizes_are_those_of_the_equations() -> None:
    # An LSTM has a state of two vectors, and four gates of two matrices and two biases.
    assert pages.core_size("lstm") == (2 * 64, "float32", 4 * (2 * 64 * 64 + 2 * 64))
    # 32 traces of 4 complex contexts.
    assert pages.core_size("ffm")[:2] == (2 * 32 * 4, "complex64")
    assert pages.core_size("none") == (0, "none", 64 * 64 + 64)


def test_sizes_in_torchrl_are_those_of_the_cores() -> None:
    """A stored state also has a flag, which takes two numbers among complex ones."""
    pattern = r"^\| (?:\[)?(`.*?`)(?:\]\S+)? \| ([\d,]+) \| (\w+[\w, ]*) \|"
    cores = (pages.ROOT / "docs/cores.md").read_text()
    states = {
        name.strip("`"): int(size.replace(",", "")) + (2 if "complex" in dtypes else 1)
        for name, size, dtypes in re.findall(pattern, cores, re.M)
    }
    page = (pages.ROOT / "docs/torchrl.md").read_text()
    table = page.partition("| core | numbers stored |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (`.*?) \| (\d+) \|", table, re.M)
    assert len(found) > 10
    for names, size in found:
        for name in re.findall(r"`(\w+)`", names):
            assert int(size) == states[name], name


def rows(title: str) -> list[tuple[set[str], str]]:
    """Names and text of the rows of a table in the README."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.M)
    return [(set(re.findall(r"`([^`]+)`", names)), text) for names, text in cells]


@pytest.mark.parametrize("group", TABLES)
def test_the_readme_names_papers_of_the_code(group: str) -> None:
    found = pages.entries(group)
    cited = 0
    for patterns, text in rows(TABLES[group]):
        named = {name for pattern in patterns for name in fnmatch.filter(found, pattern)}
        known = set().union(*(found[name].citations for name in named))
        given = set(re.findall(pages.CITATION, text))
        assert given <= known, (patterns, given - known)
        cited += len(given)
    assert cited > 4


@pytest.mark.parametrize("group", TABLES)
def test_the_readme_has_every_name_once(group: str) -> None:
    found = pages.entries(group)
    named = [
        name
        for patterns, _ in rows(TABLES[group])
        for pattern in patterns
        for name in fnmatch.filter(found, pattern)
    ]
    # `s4` is another name of `s4d`.
    assert sorted(named) == sorted(set(found) - {"s4"})
