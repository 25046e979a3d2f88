"""Cores of other packages: docstrings and options are read from their source, without an import."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlmem.cli.main import main

CAMEL = '''
"""Camels."""
import no_such_module
from rlmem.cores import register


@register("mammoth")
class Mammoth:
    """Mammoth: extinct."""


@register("camel")
class Camel:
    """Camel: never forgets a thing.

    More text.
    """

    def __init__(self, input_size, output_size=None, *, ears: int = 2, nick="Ella", tusks=None,
                 grey: bool = True, weight: float) -> None:
        pass
'''
MOUSE = """
from rlmem.cores import register

@register("mouse")
def make_mouse(input_size, output_size, tail: float = 1.5):
    pass
"""

LYNX = """
from rlmem.policies.encoders import register

@register("lynx")
def lynx(spaces, output_size):
    'Lynx: sees far.'
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed package `zoo`, whose modules cannot be imported."""
    site = tmp_path / "site"
    info, package = site / "zoo-1.0.dist-info", site / "zoo"
    (package / "small").mkdir(parents=True)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 1.0\n")
    names = {"camel": "zoo.large", "mouse": "zoo.small", "snake": "zoo.missing"}
    lines = "\n".join(f"{name} = {module}" for name, module in names.items())
    groups = f"[rlmem.cores]\n{lines}\nant = ant\n[rlmem.encoders]\nlynx = zoo.eyes\n"
    (info / "entry_points.txt").write_text(groups)
    (package / "eyes.py").write_text(LYNX)
    (package / "__init__.py").write_text("raise ImportError('zoo is closed')\n")
    (package / "large.py").write_text(CAMEL)
    (package / "small" / "__init__.py").write_text(MOUSE)
    (site / "ant.py").write_text("syntax error")
    monkeypatch.syspath_prepend(site)
    return package


@pytest.mark.usefixtures("zoo")
def test_the_list_has_the_first_line_of_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name, text in (
        ("camel", "Camel: never forgets a thing (from the package zoo)"),
        ("mouse", "from the package zoo"),
        ("snake", "from the package zoo"),
        ("ant", "from the package zoo"),
        ("lynx", "Lynx: sees far (from the package zoo)"),
    ):
        assert re.search(rf"^  {name} +{re.escape(text)}$", printed, re.M), name


@pytest.mark.usefixtures("zoo")
def test_help_has_the_options_of_signatures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help", "core=camel"]) == 0
    printed = capsys.readouterr().out
    assert "core=camel: Camel: never forgets a thing (from the package zoo)" in printed
    options = re.findall(r"^  core\.(\S+=\S+)(?:  +(\S+))?$", printed, re.M)
    assert options == [
        ("ears=2", "int"),
        ("nick=Ella", ""),
        ("tusks=null", ""),
        ("grey=true", "bool"),
        ("weight=(required)", "float"),
    ]
    assert main(["train", "--help", "core=mouse", "core.tail=2"]) == 0
    assert re.search(r"^  core.tail=1.5  +float$", capsys.readouterr().out, re.M)


def test_a_yaml_file_in_the_package_counts(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (zoo / "configs" / "core").mkdir(parents=True)
    text = "# a camel with comments\nname: camel\nears: 2  # number of ears\n"
    (zoo / "configs" / "core" / "camel.yaml").write_text(text)
    assert main(["list"]) == 0
    line = r"^  camel +a camel with comments \(from the package zoo\)$"
    assert re.search(line, capsys.readouterr().out, re.M)
    assert main(["train", "--help", "core=camel"]) == 0
    assert re.search(r"^  core.ears=2  number of ears$", capsys.readouterr().out, re.M)
    assert main(["train", "core=camel", "core.eyes=2"]) == 2
    assert "unknown key of core: 'eyes'" in capsys.readouterr().err
    assert main(["train", "core=camel", "core.ears=3", "--cfg", "job"]) == 0
    assert re.search(r"^core:\n  name: camel\n  ears: 3$", capsys.readouterr().out, re.M)
