"""One command for a machine with a GPU: tests, kernels and training, in a few minutes.

    python scripts/gpu_check.py --out DIR [--minutes 8] [--only tests,kernels,ppo,rivals]

Every step runs in a process of its own: a crash or a hang costs one case. The most valuable steps
come first. `DIR/results.csv`, `DIR/results.md` and `DIR/failures.txt` grow as results come in; a
summary is printed last. The exit status is 0. `--device cpu --small` is a dry run. Needs torch,
triton, jaxtyping, scipy and gymnasium; with pytest-xdist and pytest-timeout, tests run in parallel
and a hanging test costs a minute. A section that lacks a package is left out, with a note.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from gpu_check_report import Report
from gpu_check_steps import ROOT, Runner, Step

SECTIONS = {"tests": 150.0, "kernels": 180.0, "ppo": 120.0, "rivals": 30.0}  # seconds of 480
NEEDS = {"tests": "pytest", "ppo": "gymnasium", "rivals": "gymnasium"}
CORES = ("ffm", "gru", "s5")
# The share of each operator in the time for kernels; others get the last one.
WEIGHTS = {"linear_scan": 30, "gated_rnn": 30, "matrix_memory": 25, "delta_rule": 20}
WEIGHTS |= {"window_attention": 25, "titans": 15}
OTHER_WEIGHT, COMPILED_WEIGHT = 8, 20
COMPILED = ("linear_scan", "window_attention")  # operators with forms that torch compiles
GPU_TESTS = re.compile(r"mark\.gpu|every_device|DEVICES")
TEST_FOLDERS = ("compiled", "kernels", "cores", "envs", "policies", "data", "algos")
WORKERS = 8  # processes of tests
TEST_SECONDS = 60  # for one test
DEVICE_SECONDS = 60.0  # at most, for the look at the device
RESERVE = 4.0  # seconds at the end, to write and print


def operators() -> list[str]:
    """The operators with a description in `ops`, most valuable first."""
    files = (ROOT / "scripts" / "ops").glob("*.py")
    names = sorted(file.stem for file in files if file.stem not in ("__init__", "base"))
    return sorted(names, key=lambda name: list(WEIGHTS).index(name) if name in WEIGHTS else 99)


def test_files() -> list[str]:
    """The files with tests that need a GPU."""
    folders = [ROOT / "tests" / name for name in TEST_FOLDERS]
    found = [file for folder in folders for file in sorted(folder.glob("test_*.py"))]
    return [str(file.relative_to(ROOT)) for file in found if GPU_TESTS.search(file.read_text())]


def test_step(options: argparse.Namespace) -> Step:
    """pytest in several processes, if its plugins are there."""
    command = ["-m", "pytest", "-p", "gpu_check_pytest", "-p", "no:cacheprovider", "-m", "gpu"]
    command += ["-o", "filterwarnings=ignore", "--continue-on-collection-errors", "--tb=short"]
    if find_spec("xdist") and options.device == "cuda":
        restarts = ["--max-worker-restart", "40", "--maxschedchunk", "4"]
        command += ["-p", "xdist.plugin", "-n", str(WORKERS), *restarts]
    if find_spec("pytest_timeout"):
        # The method that ends the process: a signal does not interrupt a wait for the device.
        command += [
            "-p",
            "pytest_timeout",
            "--timeout",
            str(TEST_SECONDS),
            "--timeout-method",
            "thread",
        ]
    command += options.tests or test_files()
    patience = TEST_SECONDS + 40.0
    return Step("tests", "tests", command, SECTIONS["tests"], patience, has_cases=False)


def worker_step(
    section: str, name: str, seconds: float, options: argparse.Namespace, *arguments: str
) -> Step:
    """A step whose child is the module of the section."""
    command = ["-m", f"gpu_check_{section}", *arguments, "--device", options.device]
    command += ["--small"] if options.small else []
    return Step(section, name, command, seconds, options.patience)


def kernel_steps(options: argparse.Namespace) -> list[Step]:
    """A step per operator, then the forms that torch compiles."""
    chosen = [name for name in operators() if not options.ops or name in options.ops]
    kinds: list[tuple[str, list[str], float]] = [
        (name, [], WEIGHTS.get(name, OTHER_WEIGHT)) for name in chosen
    ]
    if not options.small:
        kinds += [(name, ["--compiled"], COMPILED_WEIGHT) for name in COMPILED if name in chosen]
    scale = SECTIONS["kernels"] / sum(weight for _, _, weight in kinds)
    return [
        worker_step(
            "kernels", " ".join(["kernels", name, *more]), weight * scale, options, name, *more
        )
        for name, more, weight in kinds
    ]


def steps(options: argparse.Namespace, report: Report) -> list[Step]:
    """All steps after the look at the device; notes those that lack a package."""
    made: list[Step] = []
    for section, package in NEEDS.items():
        if section in options.only and not find_spec(package):
            report.notes.append(f"no {section}: {package} is not importable")
            options.only.remove(section)
    if "tests" in options.only:
        made.append(test_step(options))
    if "kernels" in options.only:
        made += kernel_steps(options)
    if "ppo" in options.only:
        seconds = SECTIONS["ppo"] / len(options.cores)
        made += [worker_step("ppo", f"ppo {c}", seconds, options, c) for c in options.cores]
    if "rivals" in options.only:
        made.append(worker_step("rivals", "rivals", SECTIONS["rivals"], options))
    return made


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the three files")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything together")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a dry run")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    parser.add_argument("--ops", nargs="+", help="some operators instead of all")
    parser.add_argument("--cores", nargs="+", default=CORES, help="cores for PPO")
    parser.add_argument("--tests", nargs="+", help="test files instead of all with GPU tests")
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds after which a silent process hangs"
    )
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {', '.join(sorted(unknown))}")
    return options


def run(options: argparse.Namespace, report: Report) -> None:
    """Run everything; errors of this program itself are failures in the report."""
    end = time.monotonic() + 60 * options.minutes - RESERVE
    with tempfile.TemporaryDirectory() as folder:
        first = Runner(report, min(end, time.monotonic() + DEVICE_SECONDS), Path(folder))
        rest = Runner(report, end, Path(folder))
        try:
            first.run([worker_step("device", "device", DEVICE_SECONDS, options)])
            if report.device:
                rest.run(steps(options, report))
        except BaseException as error:
            where = {"title": "gpu_check", "error": repr(error), "minor": False}
            report.add(None, {"kind": "failure", "traceback": traceback.format_exc(), **where})
        finally:
            first.stop()
            rest.stop()


def main() -> None:
    options = parse()

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(f"stopped by signal {number}")

    signal.signal(signal.SIGTERM, stop)
    begun = time.monotonic()
    report = Report(options.out)
    run(options, report)
    report.flush(now=True)
    print(f"GPU check: {time.monotonic() - begun:.0f} s, results in {options.out}")
    print(report.summary())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
