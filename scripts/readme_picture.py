"""Draw docs/learning.png, the picture in the README: learning curves, and a terminal in training.

    python scripts/readme_picture.py [--record DIR] [--terminal]

Without an option the picture is redrawn from docs/results/learning.csv (training returns) and
docs/results/learning.txt (the terminal). With `--record` both files are recorded first: `rlmem
train` runs for every core and seed that has no run folder in DIR yet, and then twice in a
pseudo-terminal; with `--terminal`, only the latter (on an idle machine: it shows the speed).
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from pages import RESULTS
from program import rlmem

from rlmem.runs.scores import REFERENCES

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

CURVES = RESULTS / "learning.csv"
TERMINAL = RESULTS / "learning.txt"
PICTURE = RESULTS.parent / "learning.png"

CORES = ("ffm", "gru", "s5", "none")
COLORS = {"ffm": "#0072b2", "gru": "#d55e00", "s5": "#009e73", "none": "#666666"}
LABELS = {"none": "none (no memory)"}
SEEDS = (0, 1, 2)
TRAIN = ("env=popgym-repeat", "threads=1")
TOTAL_STEPS = 400_000
COLUMNS = 104  # of the terminal
KEEP_SPACES = {"drop_whitespace": False, "break_on_hyphens": False}
REFERENCE = REFERENCES["popgym-repeat"]["easy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, metavar="DIR", help="train; run folders go to DIR")
    parser.add_argument("--terminal", action="store_true", help="train twice for the terminal only")
    args = parser.parse_args()
    if args.record:
        record_curves(args.record)
    if args.record or args.terminal:
        record_terminal()
    draw()


def record_curves(folder: Path) -> None:
    """Train the missing runs, and write the training returns of all runs to `CURVES`."""
    with CURVES.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["core", "seed", "steps", "return"])
        for core in CORES:
            for seed in SEEDS:
                run = folder / f"{core}-{seed}"
                if not (run / "eval.json").exists():
                    options = (f"core={core}", f"seed={seed}", f"total_steps={TOTAL_STEPS}")
                    rlmem("train", *TRAIN, *options, f"run_dir={run}")
                with (run / "metrics.csv").open(newline="") as metrics:
                    for row in csv.DictReader(metrics):
                        mean = round(float(row["episode_return"]), 4)
                        writer.writerow([core, seed, row["step"], mean])


def record_terminal() -> None:
    """Write the screen of a finished and of a half-finished training to `TERMINAL`."""
    screen = []
    with tempfile.TemporaryDirectory() as folder:
        for core, finished in (("ffm", True), ("none", False)):
            arguments = ["train", "env=popgym-repeat", f"core={core}", f"run_dir=runs/{core}"]
            *frames, result = run_in_terminal(arguments, Path(folder))
            screen.append(f"$ rlmem {' '.join(arguments)}")
            screen += [frames[-1], result] if finished else [frames[len(frames) // 2]]
    TERMINAL.write_text("\n".join(screen) + "\n")


def run_in_terminal(arguments: list[str], folder: Path) -> list[str]:
    """Everything that `rlmem` shows in a terminal: the frames of its progress, then its result."""
    main_end, program_end = pty.openpty()
    fcntl.ioctl(program_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    # Without colours the bar consists of its finished part alone.
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "rlmem", *arguments]
    ends = {"stdin": program_end, "stdout": program_end, "stderr": program_end}
    process = subprocess.Popen(command, cwd=folder, env=environment, **ends)
    os.close(program_end)
    written = b""
    try:
        while part := os.read(main_end, 4096):
            written += part
    except OSError:  # Linux: the program has closed its end
        pass
    os.close(main_end)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command, written)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if "steps" in line]


def draw() -> None:
    """Draw both files into `PICTURE`."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    with CURVES.open(newline="") as file:
        for row in csv.DictReader(file):
            curves[row["core"], row["seed"]].append((int(row["steps"]), float(row["return"])))
    plt.rcParams.update({"font.size": 12, "font.family": "DejaVu Sans"})
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(11, 7), height_ratios=(2.8, 1), layout="constrained"
    )
    draw_curves(top, curves)
    draw_terminal(bottom, TERMINAL.read_text().splitlines())
    figure.savefig(PICTURE, dpi=140, metadata={"Software": None})
    plt.close(figure)


def draw_curves(axes: Axes, curves: dict[tuple[str, str], list[tuple[int, float]]]) -> None:
    """The mean over seeds of each core, and the range of the seeds."""
    for core in CORES:
        runs = np.array([rows for (name, _), rows in curves.items() if name == core])
        steps, returns = runs[0, :, 0] / 1000, runs[:, :, 1]
        low, high = returns.min(axis=0), returns.max(axis=0)
        axes.fill_between(steps, low, high, color=COLORS[core], alpha=0.18, linewidth=0)
        label = LABELS.get(core, core)
        axes.plot(steps, returns.mean(axis=0), color=COLORS[core], linewidth=2.2, label=label)
    last = steps[-1]
    bounds = {"best possible": REFERENCE.optimal, "best known without memory": REFERENCE.memoryless}
    for text, height in bounds.items():
        axes.axhline(height, color="#bbbbbb", linestyle=":", linewidth=1.2, zorder=1)
        axes.text(last, height + 0.03, text, ha="right", va="bottom", color="#555555", fontsize=11)
    axes.set(
        title="POPGym RepeatPrevious with PPO: name the card shown three observations ago",
        xlabel="environment steps (thousands)",
        ylabel="training return",
        xlim=(0, last),
        ylim=(-0.8, 1.18),
    )
    title = f"core: mean and range of {len(SEEDS)} seeds"
    axes.legend(title=title, loc="center right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_terminal(axes: Axes, lines: list[str]) -> None:
    """A terminal's lines, folded between words at its width: commands, progress and results."""
    lines = [part for line in lines for part in textwrap.wrap(line, COLUMNS, **KEEP_SPACES)]
    axes.set(xlim=(0, COLUMNS + 4), ylim=(len(lines) - 0.25, -0.75), xticks=[], yticks=[])
    axes.set_facecolor("#1e1e2e")
    for spine in axes.spines.values():
        spine.set_visible(False)
    style = {"family": "DejaVu Sans Mono", "fontsize": 10.5, "va": "center"}
    for number, line in enumerate(lines):
        color = "#a6e3a1" if line.startswith("$") else "#cdd6f4"
        bar = re.match("[━╸╺]*", line)
        finished = bar.group() if bar else ""
        axes.text(2, number, finished, color="#f38ba8", **style)
        axes.text(2, number, " " * len(finished) + line[len(finished) :], color=color, **style)


if __name__ == "__main__":
    main()
