"""A table of steps, printed row by row; coloured at a terminal, plain elsewhere."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from rich.console import Console
from rich.text import Text


class StepRow(NamedTuple):
    """The cells of one step; a cell may have several lines, such as a board."""

    step: str
    observation: str = ""
    action: str = ""
    reward: str = ""
    hidden: str = ""


class Table:
    """Prints rows; each column is as wide as its widest cell so far."""

    def __init__(self, console: Console, reveal: bool) -> None:
        self.console, self.reveal = console, reveal
        self.widths = [4, 16, 6, 7, 0]

    def print_line(self, text: str) -> None:
        """Print a line outside of the table."""
        self.console.print(Text(text))

    def print_header(self) -> None:
        """Print the names of the columns."""
        self._print(StepRow(*StepRow._fields), "bold", "bold")

    def print_row(self, row: StepRow, reward: float = 0.0) -> None:
        """Print a step; positive rewards are green, negative ones red."""
        self._print(row, "", "green" if reward > 0 else "red" if reward < 0 else "")

    def _print(self, row: StepRow, style: str, reward_style: str) -> None:
        if not self.reveal:
            row = row._replace(hidden="")
        columns = (cell.split("\n") for cell in row)
        lines = [StepRow(*cells) for cells in zip_longest(*columns, fillvalue="")]
        for cells in lines:
            self.widths = [max(w, len(c)) for w, c in zip(self.widths, cells, strict=True)]
        for cells in lines:
            self._print_cells(cells, style, reward_style)

    def _print_cells(self, row: StepRow, style: str, reward_style: str) -> None:
        cells = StepRow(*(c.ljust(w) for c, w in zip(row, self.widths, strict=True)))
        line = Text(f"{cells.step}  {cells.observation}  {cells.action}  ", style)
        line.append(cells.reward, reward_style)
        line.append(f"  {cells.hidden}", style or "dim")
        line.rstrip()
        self.console.print(line)
