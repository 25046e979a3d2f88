"""What the kernels in C share: memory that is used again, and threads."""

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


def test_a_large_block_serves_again_when_its_tensor_is_gone() -> None:
    x = native.empty(LARGE, torch.float32)
    assert x.is_contiguous()
    assert (x.shape, x.dtype, x.nbytes) == (LARGE, torch.float32, native.LARGE)
    address = x.data_ptr()
    del x
    again = native.empty(torch.Size([native.LARGE // 8]), torch.complex64)
    assert again.data_ptr() == address
    assert native.empty(LARGE, torch.float32).data_ptr() != address


def test_a_block_does_not_serve_while_a_view_or_a_graph_holds_it() -> None:
    x = native.empty(LARGE, torch.float32).fill_(1).requires_grad_()
    y, view = (x * x).sum(), x.detach()[1:, ::2]
    del x
    native.empty(LARGE, torch.float32).fill_(2)
    assert (view == 1).all()
    del view
    native.empty(LARGE, torch.float32).fill_(3)
    (grad,) = torch.autograd.grad(y, y.grad_fn.next_functions[0][0].next_functions[0][0].variable)
    assert (grad == 2).all()


def test_small_blocks_and_other_sizes_are_not_taken() -> None:
    small = torch.Size([16])
    address = native.empty(LARGE, torch.float32).data_ptr()
    assert native.empty(small, torch.float32).data_ptr() != address
    assert len(native._idle) == 1
    half_again = torch.Size([6, LARGE[1]])
    assert native.empty(half_again, torch.float32).data_ptr() != address
    assert native.empty(LARGE, torch.float32).data_ptr() == address


def test_no_more_is_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "KEPT", 3 * native.LARGE)
    tensors = [native.empty(LARGE, torch.float32) for _ in range(5)]
    del tensors
    assert sum(block.nbytes for block in native._idle) == native.KEPT
    monkeypatch.setattr(native, "BLOCKS", 2)
    native.empty(LARGE, torch.float32)
    assert len(native._idle) == 2


def test_threads_never_share_a_block() -> None:
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


def test_an_error_in_a_thread_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        native.run(lambda share: 1 // share, 2)


def test_a_forked_process_has_threads_of_its_own() -> None:
    """The parent's threads do not exist in the child, which must not wait for them."""
    program = """
import os, time, torch
from rlmem.kernels import native
torch.set_num_threads(2)
native.run(lambda share: time.sleep(0.1), 2)  # long enough for two threads
child = os.fork()
if child == 0:
    native.run(lambda share: None, 2)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
