"""The C in threads, forked and spawned processes: equal results, bit for bit, at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlmem.kernels import native

ROOT = Path(__file__).parents[2]
PROGRAM = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import torch
from rlmem import cores, tree


def results(seed):
    # Two threads, and sizes for which the C uses both and reuses memory.
    torch.set_num_threads(2)
    torch.manual_seed(seed)
    start = torch.rand(32, 64) < 0.1
    found = []
    for name in ("gru", "ffm"):
        core = cores.make(name, input_size=64)
        x = torch.randn(32, 64, 64, requires_grad=True)
        y, state = core.scan(x, core.initial_state(32), start)
        y.square().mean().backward()
        found += [y, x.grad, *tree.leaves(state), *(p.grad for p in core.parameters())]
    return [(x * 1).detach().numpy() for x in found]


def equal(some, others):
    return all((a == b).all() for a, b in zip(some, others, strict=True))


if __name__ == "__main__":
    want = None
    # torch's own threads do not survive a fork, so the parent has not used any yet.
    for kind in ("fork", "spawn"):
        context = multiprocessing.get_context(kind)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            other = pool.submit(results, 0)
            if kind == "fork":
                other.result()
            want = want or results(0)
            assert equal(other.result(), want), kind
    x, start = torch.randn(32, 64, 64), torch.rand(32, 64) < 0.1
    core = cores.make("gru", input_size=64)
    alone, _ = core.scan(x, core.initial_state(32), start)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(core.scan, x, core.initial_state(32), start) for _ in range(16)]
        assert all(torch.equal(job.result()[0], alone) for job in jobs), "threads"
"""


@pytest.mark.skipif(not native.AVAILABLE, reason="the C was not built")
def test_threads_and_processes_give_equal_results(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
