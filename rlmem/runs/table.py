"""Tables of text: aligned for a terminal, and as Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

# Digits, spaces and the signs of numbers, intervals and missing values: such columns align right.
NUMBERS = r"[-+\d.,%*\[\] ]*"


class Table(NamedTuple):
    """A header, and rows of cells of text, as many as the header has."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Aligned columns, numbers to the right."""
        lines = [list(self.header), *map(list, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = self.numeric()

        def line(cells: Sequence[str]) -> str:
            parts = zip(cells, widths, right, strict=True)
            return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in parts).rstrip()

        return "\n".join([line(lines[0]), line(["-" * w for w in widths]), *map(line, lines[1:])])

    def markdown(self) -> str:
        """A table of GitHub's Markdown."""
        ruler = ["---:" if right else "---" for right in self.numeric()]
        lines = [list(self.header), ruler, *map(list, self.rows)]
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
        return "\n".join("| " + " | ".join(line) + " |" for line in escaped)

    def latex(self) -> str:
        """A `tabular` with the rules of the package booktabs."""
        columns = "".join("r" if right else "l" for right in self.numeric())
        head, *body = (
            " & ".join(map(_escape, line)) + r" \\" for line in (self.header, *self.rows)
        )
        begin = rf"\begin{{tabular}}{{{columns}}}"
        rows = [begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
        return "\n".join(rows)

    def numeric(self) -> list[bool]:
        """Whether each column has numbers only."""
        columns = zip(*self.rows, strict=True) if self.rows else ([],) * len(self.header)
        return [all(re.fullmatch(NUMBERS, cell) for cell in column) for column in columns]


def number(value: float | None, digits: int = 3) -> str:
    """A number as text, without the sign of a rounded zero; `-` for None."""
    if value is None:
        return "-"
    return f"{round(value, digits) + 0:,.{digits}f}"


def _escape(text: str) -> str:
    text = text.replace("\\", r"\textbackslash{}")
    return re.sub(r"([&%$#_{}])", r"\\\1", text) if "\\" not in text else text
