"""A plugin of pytest: `@pytest.mark.core_laws(MyCore)` gives a test its argument `law`, one by one.

In `conftest.py`: `pytest_plugins = "rlmem.testing.plugin"`. In a test file:

    @pytest.mark.core_laws(MyCore, size=16)
    def test_my_core(law):
        law()
"""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "core_laws(core, **options): run the test once for each law of memory cores"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a marked test the laws of its core."""
    marker = metafunc.definition.get_closest_marker("core_laws")
    if marker is not None and "law" in metafunc.fixturenames:
        from rlmem.testing.check import laws

        metafunc.parametrize("law", laws(*marker.args, **marker.kwargs), ids=str)
