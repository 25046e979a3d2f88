"""Damages runs in every way and counts what happens: docs/results/corruption.md.

    python scripts/corrupt.py [--corruptions 100] [--seed 0] [--write]

1. Corruptions: one file of a run is changed (a bit flipped, cut, zeroed, two blocks or two files
   swapped, deleted, bytes appended), then the run is evaluated, read by `compare` and resumed.
2. Crash points: a training is killed at every operation on a file, before it and (of a file that is
   opened or written) in the middle of it, then resumed and evaluated.
3. Hostile folders: see tests/cli/test_trust.py; their peak memory is measured here.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.crash_points import COUNT, DIVISIBLE, KILLED, crash_at
from scripts.hostile import FOLDERS

OUT = Path(__file__).parents[1] / "docs/results/corruption.md"
SIZES = ["threads=1", "num_envs=4", "hidden_size=8", "core=gru", "eval_episodes=2"]
SIZES += ["log.progress=false", "log.tensorboard=false", "checkpoint_every=96"]
TRIALS = ["env=meta-bandit", "env.episodes=6", "algo=r2d2", "algo.learning_starts=64"]
TRIALS += ["algo.replay.length=8", "algo.replay.burn_in=0", "algo.replay.stride=8"]
TRIALS += ["algo.num_steps=8", "algo.replay.capacity=1200", "eval_every=96"]
ABOUT = (
    "a run of R2D2 on meta-bandit with its replay in files, 2 checkpoints. One file damaged (flip, "
    "cut, zero, swap, delete, append), then read by `compare`, evaluated and resumed; `no effect`: "
    "equal results, because the damaged bytes are not read, or were written again."
)
FIRST, SECOND = "total_steps=192", "total_steps=288"


class Outcome(NamedTuple):
    """The end of a command: exit code and everything that it printed."""

    code: int
    text: str

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.text or self.code not in (0, 2)


def in_child(work: Callable[[], int], folder: Path) -> Outcome:
    """Run `work` in a forked process in `folder`; its output is caught."""
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush()
        sys.stderr.flush()
        if (child := os.fork()) == 0:
            os.chdir(folder)
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            # A test's own streams would keep the lines.
            sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, closefd=False) for n in (1, 2))
            code = 70
            try:
                code = work()
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return Outcome(os.waitstatus_to_exitcode(status), output.read().decode(errors="replace"))


def rlmem(*arguments: str) -> Callable[[], int]:
    """A command of rlmem as a function."""

    def work() -> int:
        from rlmem.cli.main import main

        return main(arguments)

    return work


def read_record() -> int:
    """What `rlmem compare` reads of the run `a`."""
    from rlmem.errors import UsageError
    from rlmem.runs import records

    try:
        print(records.read(Path("a")).score)
    except UsageError as error:
        print(f"rlmem: {error}")
        return 2
    return 0


def make_run(folder: Path) -> None:
    """Train the run `a` in `folder`, with its replay in files.

    In this process: everything is imported before it is forked.
    """
    before = Path.cwd()
    os.chdir(folder)
    try:
        code = rlmem(
            "train", *SIZES, *TRIALS, FIRST, "run_dir=a", "algo.replay.directory=a/replay"
        )()
        assert code == 0
        assert not rlmem("eval", "run=a", "episodes=2")()
    finally:
        os.chdir(before)


def corrupt(kind: str, file: Path, chance: random.Random) -> None:
    """Damage a file in one way."""
    data = bytearray(file.read_bytes())
    size = len(data)
    if kind == "delete":
        file.unlink()
        return
    if kind == "flip" and size:
        data[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[chance.randrange(size) if size else 0 :]
    elif kind == "zero":
        first = chance.randrange(max(size, 1))
        data[first : first + 64] = bytes(len(data[first : first + 64]))
    elif kind == "swap":
        half, length = size // 2, min(64, size // 4)
        data[:length], data[half : half + length] = data[half : half + length], data[:length]
    elif kind == "append":
        data += chance.randbytes(chance.randrange(1, 64))
    file.write_bytes(bytes(data))


KINDS = ("flip", "cut", "zero", "swap", "delete", "append")


def state_of(run: Path) -> dict[str, object]:
    """What a run has learned: weights, rows of metrics without times, and evaluations."""
    import csv

    from rlmem.runs import checkpoint

    weights = checkpoint.load(run).weights
    with (run / "metrics.csv").open(newline="") as file:
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")}
            for row in csv.DictReader(file)
        ]
    return {"weights": {k: v.tolist() for k, v in weights.items()}, "rows": rows}


def judge(outcomes: Sequence[Outcome], file: str, same: bool) -> str:
    """The result of a corruption in a word."""
    text = "".join(each.text for each in outcomes)
    if any(each.traceback for each in outcomes):
        return "traceback"
    place = file.split("/")[-2] if "step-" in file else Path(file).stem
    if "; using that of step" in text:
        return "checkpoint before used"
    if place in text and "using its copy" in text:
        return "copy used"
    if any(each.code for each in outcomes):
        return "refused in a line"
    if place in text and "rlmem: " in text:
        return "named, went on"
    return "no effect" if same else "silent"


def corruptions(folder: Path, number: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Files, kinds of damage and results."""
    chance = random.Random(seed)
    make_run(folder)
    whole = folder / "whole"
    (folder / "a").rename(whole)
    commands = [
        read_record,
        rlmem("eval", "run=a", "episodes=2"),
        rlmem("train", "resume=a", SECOND),
    ]

    def play(change: Callable[[Path], None]) -> tuple[list[Outcome], dict[str, object]]:
        shutil.copytree(whole, folder / "a", symlinks=True)
        change(folder / "a")
        outcomes = [in_child(command, folder) for command in commands]
        state: dict[str, object] = {}
        try:
            state = state_of(folder / "a") if not outcomes[-1].code else {}
        finally:
            shutil.rmtree(folder / "a")
        return outcomes, state

    outcomes, reference = play(lambda _: None)
    assert not any(each.code for each in outcomes), outcomes
    printed = outcomes[1].text
    files = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
    cases = [(file, kind) for file in files for kind in KINDS]
    chance.shuffle(cases)
    for file, kind in (cases * (number // len(cases) + 1))[:number]:
        outcomes, state = play(lambda run, f=file, k=kind: corrupt(k, run / f, chance))
        same = state == reference and printed == outcomes[1].text
        result = judge(outcomes, file, same)
        if result in ("silent", "traceback"):
            print(f"--- {result}: {kind} {file}\n" + "".join(o.text for o in outcomes)[-2000:])
        yield file, kind, result


def crash_points(folder: Path, every: int = 1) -> Counter[str]:
    """Results of a training that is killed at each of its operations on files."""
    train = rlmem("train", *SIZES, *TRIALS, FIRST, "run_dir=a", "algo.replay.directory=a/replay")
    done = in_child(crash_at(train, -1, False), folder)
    assert done.code == 0, done.text
    names = (folder / COUNT).read_text().split()
    shutil.rmtree(folder / "a")
    found: Counter[str] = Counter()
    for point, name in list(enumerate(names))[::every]:
        for half in (False, True) if name in DIVISIBLE else (False,):
            killed = in_child(crash_at(train, point, half), folder)
            if killed.code != KILLED:
                found["not reached"] += 1
            elif not (folder / "a/config.yaml").exists():
                again = in_child(train, folder)
                found["no run yet, began again" if not again.code else "unusable"] += 1
                if again.code:
                    print(f"--- crash point {point} {half}: {again.text[-800:]}")
            else:
                resumed = in_child(rlmem("train", "resume=a", SECOND), folder)
                played = in_child(rlmem("eval", "run=a", "episodes=2"), folder)
                good = not resumed.code and not played.code
                found["resumed" if good else "unusable"] += 1
                if not good:
                    print(f"--- crash point {point} {half}: {(resumed.text + played.text)[-800:]}")
            shutil.rmtree(folder / "a", ignore_errors=True)
    return found


def hostile(folder: Path) -> Iterator[tuple[str, str, float]]:
    """Kinds of hostile folders, their results, and the growth of memory in MiB."""
    from rlmem.runs import checkpoint

    make_run(folder)
    whole = folder / "whole"
    (folder / "a").rename(whole)
    newest = f"checkpoints/{checkpoint.last(whole).name}"  # type: ignore[union-attr]
    for name, change in FOLDERS.items():
        shutil.copytree(whole, folder / "a")
        change(folder / "a", newest)
        outside = sorted(p.name for p in folder.iterdir())
        peaks, results = [], []
        for command in (
            rlmem("eval", "run=a", "episodes=2"),
            rlmem("play", "run=a"),
            rlmem("export", "run=a", "to=/dev/null.rlmem"),
            rlmem("train", "resume=a", SECOND),
            read_record,
        ):
            done = in_child(_measured(command), folder)
            peaks.append(float(done.text.rpartition("peak ")[2].split()[0]))
            results.append("traceback" if done.traceback else "refused" if done.code else "ran")
        left = sorted(p.name for p in folder.iterdir()) != outside or (folder / "ran").exists()
        result = "CODE RAN OR FILES WRITTEN" if left else " ".join(sorted(set(results)))
        shutil.rmtree(folder / "a")
        yield name, result, max(peaks)


def _measured(work: Callable[[], int]) -> Callable[[], int]:
    def measured() -> int:
        import resource

        code = work()
        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
        return code

    return measured


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [" | ".join(map(str, row)) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corruptions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="crash points: every nth one")
    parser.add_argument("--write", action="store_true", help="write docs/results/corruption.md")
    args = parser.parse_args()
    import rlmem.cli.commands
    import rlmem.runs.train  # noqa: F401

    command = f"python scripts/corrupt.py --corruptions {args.corruptions} --every {args.every}"
    parts = [f"`{command}`: {ABOUT}"]
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name for name in ("corruptions", "crashes", "hostile")]
        for each in folders:
            each.mkdir()
        results = Counter(
            ("checkpoint" if "step-" in file else file, result)
            for file, _, result in corruptions(folders[0], args.corruptions, args.seed)
        )
        kinds = sorted({result for _, result in results})
        rows = [
            [file, *(results[file, kind] or "" for kind in kinds)]
            for file in sorted({file for file, _ in results})
        ]
        total = ["all", *(sum(results[f[0], kind] for f in rows) for kind in kinds)]
        parts.append(table(["file", *kinds], [*rows, total]))
        print(parts[-1], flush=True)
        crashed = crash_points(folders[1], args.every)
        parts.append(
            table(["killed before or in an operation on a file", "times"], sorted(crashed.items()))
        )
        print(parts[-1], flush=True)
        found = [(name, result, f"{peak:.0f}") for name, result, peak in hostile(folders[2])]
        parts.append(
            table(["hostile folder", "eval, play, export, resume, compare", "peak MiB"], found)
        )
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.write:
        OUT.write_text(text)


if __name__ == "__main__":
    main()
