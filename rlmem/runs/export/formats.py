"""The files of an export: ONNX, a program of `torch.export`, or the agent's own format."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from rlmem import __version__
from rlmem.errors import UsageError, install_hint
from rlmem.files import replacing
from rlmem.runs.export.program import output_names, trace
from rlmem.runs.export.step import NEXT, Exportable, Step

# Key of the description in the metadata of an ONNX file, and its name in a `.pt2` file.
METADATA = "rlmem"
EXTRA_FILE = "rlmem.json"
ONNX_PACKAGES = ("onnx", "onnxscript")


def export(agent: Exportable, path: str | Path, deterministic: bool = True) -> None:
    """Write one step of `agent` to a file, by its ending `.onnx`, `.pt2` or `.rlmem`.

    With `deterministic` the step's action is the most likely one, and otherwise sampled. Raises
    `UsageError` for another ending, a missing folder or a missing package.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise UsageError(
            f"cannot export to {str(path)!r}: the name must end in {', '.join(WRITERS)}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"cannot export to {str(path)!r}: there is no folder {path.parent}")
    WRITERS[path.suffix](agent, path, deterministic)


def describe(agent: Exportable, step: Step, program: ExportedProgram) -> dict[str, Any]:
    """The description in an exported file: names, dtypes and shapes, spaces, versions."""
    spec = json.loads(agent.spec.to_json())
    names = output_names(program)
    values = program.graph.output_node().args[0]
    assert isinstance(values, tuple)
    outputs = [
        _tensor(name, value.meta["val"].dtype, value.meta["val"].shape[1:])
        for name, value in zip(names, values, strict=True)
    ]
    return {
        "format": 1,
        "rlmem": __version__,
        "torch": torch.__version__,
        "deterministic": step.deterministic,
        "inputs": [_tensor(field.name, field.dtype, field.shape) for field in step.inputs],
        "outputs": outputs,
        "state": {name.removeprefix(NEXT): name for name in names if name.startswith(NEXT)},
        **{key: spec[key] for key in ("algo", "observation_space", "action_space", "history")},
        "core": spec["policy"].get("core"),
    }


def _tensor(name: str, dtype: torch.dtype, shape: Any) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": ["N", *map(int, shape)],
    }


def onnx_program(program: ExportedProgram, step: Step) -> torch.onnx.ONNXProgram:
    """A traced step in ONNX, with the names of its inputs and outputs; N is the batch."""
    names = [field.name for field in step.inputs]
    # All inputs share the batch, so that one of them names it.
    shapes: dict[str, Any] = dict.fromkeys(names) | {names[0]: {0: "N"}}
    with _quiet():
        made = torch.onnx.export(
            program,
            input_names=names,
            output_names=output_names(program),
            dynamic_shapes=(shapes,),
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    return made


def _write_onnx(agent: Exportable, path: Path, deterministic: bool) -> None:
    for package in ONNX_PACKAGES:
        if find_spec(package) is None:
            raise UsageError(f"{path.name} needs {package}: {install_hint('onnx')}")
    program, step = trace(agent, deterministic)
    made = onnx_program(program, step)
    made.model.metadata_props[METADATA] = json.dumps(describe(agent, step, program))
    with replacing(path) as partial:
        made.save(partial, external_data=False)


def _write_pt2(agent: Exportable, path: Path, deterministic: bool) -> None:
    program, step = trace(agent, deterministic)
    text = json.dumps(describe(agent, step, program))
    with replacing(path) as partial:
        torch.export.save(program, partial, extra_files={EXTRA_FILE: text})


@contextmanager
def _quiet() -> Iterator[None]:
    """No messages of the exporters, which explain each of their optimisations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's own use of names that it deprecates.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _write_rlmem(agent: Exportable, path: Path, deterministic: bool) -> None:
    if not deterministic:
        raise UsageError("a .rlmem file has no deterministic=false: give it to agent.act")
    agent.save(path)


WRITERS: dict[str, Callable[[Exportable, Path, bool], None]] = {
    ".onnx": _write_onnx,
    ".pt2": _write_pt2,
    ".rlmem": _write_rlmem,
}
