"""Without the built C kernels, everything works, but slower, and one warning is given."""

from __future__ import annotations

import subprocess
import sys

HIDDEN = """
import sys, warnings
sys.modules["rlmem.kernels._c"] = None  # importing it is an ImportError, as if it were not there
import torch
from rlmem.kernels import linear_scan, native
from rlmem.kernels.linear_scan import linear_scan_reference
assert not native.AVAILABLE
torch.manual_seed(0)
start = torch.rand(2, 9) < 0.3
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for gate in (torch.rand(3), torch.rand(2, 9, 3)):
        leaves = [gate, torch.randn(2, 9, 3), torch.randn(2, 3)]
        results = []
        for scan in (linear_scan, linear_scan_reference):
            h = scan(*(x.requires_grad_() for x in leaves), start)
            results.append([h, *torch.autograd.grad(h.square().sum(), leaves)])
        torch.testing.assert_close(*results)
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def test_without_the_c_module_the_torch_form_runs_and_warns_once() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("RuntimeWarning rlmem's C kernels were not built")
