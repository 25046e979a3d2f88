"""Every test: shape annotations are checked, the seed is fixed, `gpu` needs a CUDA device."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# What is imported before the hook is not checked: here the one hot function that makes a function
# at every call, which the hook would decorate every time (0.7 ms).
import rlmem.tree  # noqa: F401

install_import_hook("rlmem", "beartype.beartype")

# The tensors of the tests are small: more threads only wait for each other.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party environments draw from the global generator)
    torch.manual_seed(0)
