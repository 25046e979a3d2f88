"""Shared parts of the kernels in C: reused memory, and threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from rlmem.kernels import native

LARGE = torch.Size([4, native.LARGE // 16])  # of float32


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    native.release()


def test_a_large_block_is_reused_after_its_tensor_is_freed() -> None:
    x = native.empty(LARGE, torch.float32)
    assert x.is_contiguous()
    assert (x.shape, x.dtype, x.nbytes) == (LARGE, torch.float32, native.LARGE)
    address = x.data_ptr()
    del x
    again = native.empty(torch.Size([native.LARGE // 8]), torch.complex64)
    assert again.data_ptr() == address
    assert native.empty(LARGE, torch.float32).data_ptr() != address


def test_a_block_is_not_reused_while_a_view_or_graph_holds_it() -> None:
    x = native.empty(LARGE, torch.float32).fill_(1).requires_grad_()
    y, view = (x * x).sum(), x.detach()[1:, ::2]
    del x
    native.empty(LARGE, torch.float32).fill_(2)
    assert (view == 1).all()
    del view
    native.empty(LARGE, torch.float32).fill_(3)
    (grad,) = torch.autograd.grad(y, y.grad_fn.next_functions[0][0].next_functions[0][0].variable)
    assert (grad == 2).all()


def test_small_results_and_other_sizes_do_not_reuse_a_block() -> None:
    small = torch.Size([16])
    address = native.empty(LARGE, torch.float32).data_ptr()
    assert native.empty(small, torch.float32).data_ptr() != address
    assert len(native._idle) == 1
    half_again = torch.Size([6, LARGE[1]])
    assert native.empty(half_again, torch.float32).data_ptr() != address
    assert native.empty(LARGE, torch.float32).data_ptr() == address


def test_kept_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MAX_KEPT_BYTES", 3 * native.LARGE)
    tensors = [native.empty(LARGE, torch.float32) for _ in range(5)]
    del tensors
    assert sum(block.nbytes for block in native._idle) == native.MAX_KEPT_BYTES
    monkeypatch.setattr(native, "MAX_KEPT_BLOCKS", 2)
    native.empty(LARGE, torch.float32)
    assert len(native._idle) == 2


def test_threads_never_get_the_same_block() -> None:
    wrong: list[int] = []

    def use(number: int) -> None:
        for _ in range(30):
            x = native.empty(LARGE, torch.float32).fill_(number)
            if not (x == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_run_concurrently() -> None:
    """The barrier opens only if all three run."""
    barrier = threading.Barrier(3, timeout=30)
    native.run(lambda: barrier.wait(), 3)


def test_a_thread_that_has_not_started_is_not_waited_for() -> None:
    """All other threads are busy: this one does the work and continues."""
    busy = threading.Event()
    work: list[int] = []
    blocked = threading.Thread(target=native.run, args=(lambda: busy.wait(30), 2))
    blocked.start()
    try:
        native.run(lambda: work.append(threading.get_ident()), 2)
    finally:
        busy.set()
        blocked.join()
    assert threading.get_ident() in work


@pytest.mark.parametrize("here", [True, False])
def test_an_error_in_any_thread_is_raised(here: bool) -> None:
    barrier = threading.Barrier(2, timeout=30)
    caller = threading.get_ident()

    def work() -> None:
        barrier.wait()
        if (threading.get_ident() == caller) == here:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        native.run(work, 2)


def test_a_forked_process_has_its_own_threads() -> None:
    """The parent's threads do not exist in the child, which must not wait for them."""
    program = """
import os, threading
from rlmem.kernels import native
both = threading.Barrier(2, timeout=5)
native.run(both.wait, 2)
child = os.fork()
if child == 0:
    native.run(both.wait, 2)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
