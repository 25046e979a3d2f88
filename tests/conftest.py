"""Every test: shape annotations of cores are checked, the seed is fixed, `gpu` needs a CUDA device.

Without beartype (a machine with a GPU may lack it) the tests run, and annotations are not checked.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from importlib.util import find_spec
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# What is imported before the hook is not checked: here the one hot function that makes a function
# at every call, which the hook would decorate every time (0.7 ms).
import rlmem.tree  # noqa: F401

# Checks of annotations take two fifths of the time of the tests of cores. By day
# `test_annotations.py` runs a part of the tests with those of cores and kernels, where tensors
# enter; the nightly run checks all rooms in all tests.
CHECKED = {"none": [], "memory": ["rlmem.cores", "rlmem.kernels"], "all": ["rlmem"]}
HAS_BEARTYPE = find_spec("beartype") is not None
if HAS_BEARTYPE:
    install_import_hook(CHECKED[os.environ.get("RLMEM_CHECK_TYPES", "none")], "beartype.beartype")

# The tensors of the tests are small: more threads only wait for each other.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    if HAS_BEARTYPE:
        # OmegaConf's DictConfig derives from typing.MutableMapping.
        warning = "beartype.roar.BeartypeDecorHintPep585DeprecationWarning"
        config.addinivalue_line("filterwarnings", f"ignore::{warning}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Half of the tests for each of two workers, so few fixtures are made twice."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    families: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("by_day"):
            families[item.nodeid.partition("[")[0]].append(item)
    for test, cases in families.items():
        every = cases[0].get_closest_marker("by_day").args[0]  # type: ignore[union-attr]
        # Tests begin with different cases, so that each environment has its turn.
        first = crc32(test.encode()) % min(every, len(cases))
        for i, case in enumerate(cases):
            if i % every != first:
                case.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        gpu = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    # A part of the tests of Triton's kernels (tests/kernels/test_interpreter.py).
    if every := os.environ.get("RLMEM_EVERY"):
        run = [item for item in items if not item.get_closest_marker("gpu")]
        items[:] = run[:: int(every)]


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party environments draw from the global generator)
    torch.manual_seed(0)
