"""`rlmem compare` and `rlmem plot`: tables and pictures of finished and running runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlmem.cli import plain
from rlmem.errors import UsageError
from rlmem.runs import compare, learning_curves, records


def run_compare(arguments: Sequence[str]) -> int:
    """Print and write the comparison of the runs in the given folders."""
    folders, options, _ = plain.parse("compare", arguments)
    if not folders:
        raise UsageError("rlmem compare needs folders: rlmem compare DIR ... [by=core]")
    out = options["out"] or default_folder(folders)
    print(comparison(folders, plain.as_list(options["by"]), Path(out), options["plot"]))
    return 0


def default_folder(folders: Sequence[str]) -> str:
    """The folder of a comparison: the only given one, unless it is a run."""
    (only, *more) = folders
    return "comparison" if more or (Path(only) / "config.yaml").exists() else only


def comparison(folders: Sequence[str], by: Sequence[str], out: Path, plot: bool = True) -> str:
    """The comparison of all runs in `folders` as text; writes tables and pictures to `out`."""
    groups = compare.group(map(records.read, records.find(folders)), by)
    parts = [compare.table(groups).text()]
    if any(not each.evaluated for each in groups):
        parts.append("* last training return of a run without evaluation")
    for more in (compare.aggregates(groups), compare.improvements(groups)):
        if more is not None:
            parts.append(more.text())
    files = compare.write(groups, out)
    if plot:
        files.append(learning_curves.draw(groups, out / "curves.png"))
        if profiles := compare.profiles(groups):
            files.append(learning_curves.draw_profiles(profiles, out / "profiles.png"))
    parts.append("written to " + ", ".join(map(str, files)))
    return "\n\n".join(parts)


def run_plot(arguments: Sequence[str]) -> int:
    """Draw the learning curve of one run."""
    runs, options, _ = plain.parse("plot", arguments)
    if len(runs) != 1:
        raise UsageError("rlmem plot needs one run folder: rlmem plot RUN [out=FILE]")
    (path,) = runs
    if not (Path(path) / "config.yaml").is_file():
        raise UsageError(f"{path} is not a run folder (rlmem compare {path} plots several runs)")
    record = records.read(Path(path))
    if not len(record.curve.steps):
        raise UsageError(f"{path} has no training returns yet: no episode has ended")
    target = Path(options["out"] or Path(path) / "curve.png")
    print(learning_curves.draw(compare.group([record]), target))
    return 0
