"""The registry imports no more modules of a package than a name needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlmem.errors import UsageError
from rlmem.registry import Registry

MEMBER = "import shelf\n@shelf.registry.register({name!r})\ndef make(): return {name!r}\n"
FILES = {
    "__init__.py": "from rlmem.registry import Registry\nregistry = Registry('book', 'shelf')\n",
    "plain_one.py": MEMBER.format(name="plain-one"),
    "family/__init__.py": "",
    "family/big_one.py": MEMBER.format(name="family-big-one"),
    "family/others.py": MEMBER.format(name="hidden-one"),
}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    for name, text in FILES.items():
        path = tmp_path / "shelf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import shelf

    yield shelf.registry
    for name in [name for name in sys.modules if name.partition(".")[0] == "shelf"]:
        del sys.modules[name]


def imported() -> set[str]:
    return {name.partition(".")[2] for name in sys.modules if name.startswith("shelf.")}


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("plain-one", {"plain_one"}),
        ("family-big-one", {"family", "family.big_one"}),
        ("hidden-one", {"plain_one", "family", "family.big_one", "family.others"}),
    ],
)
def test_a_name_imports_its_own_module(shelf: Registry, name: str, modules: set[str]) -> None:
    assert shelf.make(name) == name
    assert imported() == modules


@pytest.mark.parametrize("name", ["family", "family-", "plain-one-more", "family-x", "a/b", "-"])
def test_an_unknown_name_is_one_line(shelf: Registry, name: str) -> None:
    with pytest.raises(UsageError, match="unknown book"):
        shelf.get(name)
    assert shelf.names() == ["family-big-one", "hidden-one", "plain-one"]
