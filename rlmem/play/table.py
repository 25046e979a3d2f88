"""Rows printed as they come; coloured at a terminal, plain elsewhere."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from rich.console import Console
from rich.text import Text


class Row(NamedTuple):
    """The cells of one step; a cell that is a board has several lines."""

    step: str
    sees: str = ""
    does: str = ""
    gets: str = ""
    hidden: str = ""


class Table:
    """Its columns are as wide as what they have held so far."""

    def __init__(self, console: Console, reveal: bool) -> None:
        self.console, self.reveal = console, reveal
        self.widths = [4, 16, 6, 7, 0]

    def say(self, text: str) -> None:
        """A line outside of the table."""
        self.console.print(Text(text))

    def head(self) -> None:
        """The names of the columns."""
        self._print(Row("step", "sees", "does", "gets", "hidden"), "bold", "bold")

    def row(self, row: Row, reward: float = 0.0) -> None:
        """A step; the reward says its colour."""
        self._print(row, "", "green" if reward > 0 else "red" if reward < 0 else "")

    def _print(self, row: Row, style: str, reward_style: str) -> None:
        if not self.reveal:
            row = row._replace(hidden="")
        lines = [Row(*parts) for parts in zip_longest(*(c.split("\n") for c in row), fillvalue="")]
        for cells in lines:
            self.widths = [max(w, len(c)) for w, c in zip(self.widths, cells, strict=True)]
        for cells in lines:
            self._print_line(cells, style, reward_style)

    def _print_line(self, row: Row, style: str, reward_style: str) -> None:
        cells = Row(*(c.ljust(w) for c, w in zip(row, self.widths, strict=True)))
        line = Text(f"{cells.step}  {cells.sees}  {cells.does}  ", style)
        line.append(cells.gets, reward_style)
        line.append(f"  {cells.hidden}", style or "dim")
        line.rstrip()
        self.console.print(line)
