"""Reads the file that wandb writes without a network: protobuf records in a log of LevelDB."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK, HEADER, PARTIAL = 32768, 7, (2, 3)  # the first and middle parts of a record


class Content(NamedTuple):
    """The id and project of a run, its configuration, its rows by step, and its exit code."""

    id: str
    project: str
    config: dict[str, Any]
    rows: dict[int, dict[str, Any]]
    exit_code: int


def read(path: Path) -> Content:
    """The content of a `.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record

    id, project, exit_code = "", "", -1
    config: dict[str, Any] = {}
    rows: dict[int, dict[str, Any]] = {}
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            id, project = record.run.run_id, record.run.project
            config |= _items(record.run.config.update)
        elif kind == "config":
            config |= _items(record.config.update)
        elif kind == "history":
            rows[record.history.step.num] = _items(record.history.item)
        elif kind == "exit":
            exit_code = record.exit.exit_code
    return Content(id, project, config, rows, exit_code)


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log: 7 bytes of head, then blocks of parts (checksum, length, type)."""
    parts, at = b"", HEADER
    while at < len(data):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left  # the padding of a block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind not in PARTIAL:
            yield parts
            parts = b""


def _items(items: Any) -> dict[str, Any]:
    return {".".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}
