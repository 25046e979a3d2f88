"""Parameters of tests that run by night only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def by_night(values: Iterable[Any]) -> list[Any]:
    """The values as parameters of slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
