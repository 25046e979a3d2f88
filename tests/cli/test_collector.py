"""The collector of reference cycles is off while a command imports, and on while it works."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from omegaconf import DictConfig

from rlmem.cli import collector, commands
from rlmem.cli.main import main


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_the_collector_is_off_until_it_is_resumed():
    with collector.paused():
        assert not gc.isenabled()
        collector.resume()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        collector.resume()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_an_error_ends_the_pause():
    with pytest.raises(ZeroDivisionError), collector.paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with collector.paused():
        collector.resume()
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_command_works_with_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def body(cfg: DictConfig) -> None:
        seen.append(gc.isenabled())

    monkeypatch.setitem(commands.COMMANDS, "train", (body, "train"))
    assert main(["train"]) == 0
    assert seen == [True]
    assert main(["train", "core=nothing"]) == 2
    assert gc.isenabled()
