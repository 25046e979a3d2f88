"""The files of an export: ONNX, a program of `torch.export`, or the agent's own format."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from rlmem import __version__
from rlmem.errors import UsageError, need, positive
from rlmem.files import replacing
from rlmem.runs.export.program import output_names, trace
from rlmem.runs.export.step import NEXT, Exportable, Step

# Key of the description in the metadata of an ONNX file, and its name in a `.pt2` file.
METADATA = "rlmem"
EXTRA_FILE = "rlmem.json"
ENDINGS = (".onnx", ".pt2", ".rlmem")
ONNX_PACKAGES = ("onnx", "onnxscript")


def export(
    agent: Exportable, path: str | Path, deterministic: bool = True, batch: int | None = None
) -> None:
    """Write one step of `agent` to a file, by its ending `.onnx`, `.pt2` or `.rlmem`.

    With `deterministic` the step's action is the most likely one, and otherwise sampled. The step
    takes any batch of environments, or only the given one, which makes it a little faster. Raises
    `UsageError` for another ending, a missing folder or a missing package.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(
            f"cannot export to {str(path)!r}: the name must end in {', '.join(ENDINGS)}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"cannot export to {str(path)!r}: there is no folder {path.parent}")
    if path.suffix == ".rlmem":
        if not deterministic or batch is not None:
            raise UsageError("a .rlmem file has neither deterministic nor batch: agent.act does")
        agent.save(path)
        return
    if batch is not None:
        positive("batch", batch)
    write = _write_onnx if path.suffix == ".onnx" else _write_pt2
    write(agent, path, deterministic, batch)


def describe(
    agent: Exportable, step: Step, program: ExportedProgram, batch: int | None
) -> dict[str, Any]:
    """The description in an exported file: names, dtypes and shapes, spaces, versions."""
    spec = json.loads(agent.spec.to_json())
    names = output_names(program)
    values = program.graph.output_node().args[0]
    assert isinstance(values, tuple)
    outputs = [
        _tensor(name, value.meta["val"].dtype, value.meta["val"].shape[1:], batch)
        for name, value in zip(names, values, strict=True)
    ]
    return {
        "format": 1,
        "rlmem": __version__,
        "torch": torch.__version__,
        "deterministic": step.deterministic,
        "inputs": [_tensor(field.name, field.dtype, field.shape, batch) for field in step.inputs],
        "outputs": outputs,
        "state": {name.removeprefix(NEXT): name for name in names if name.startswith(NEXT)},
        **{key: spec[key] for key in ("algo", "observation_space", "action_space", "history")},
        "core": spec["policy"].get("core"),
    }


def _tensor(name: str, dtype: torch.dtype, shape: Any, batch: int | None) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": [batch or "N", *map(int, shape)],
    }


def onnx_program(program: ExportedProgram, step: Step) -> torch.onnx.ONNXProgram:
    """A traced step in ONNX, with the names of its inputs and outputs; N is the batch."""
    names = [field.name for field in step.inputs]
    # All inputs share the batch, so that one of them names it.
    shapes = dict.fromkeys(names) | {names[0]: {0: "N"}}
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


def _write_onnx(agent: Exportable, path: Path, deterministic: bool, batch: int | None) -> None:
    for package in ONNX_PACKAGES:
        need(package, f"an export to {path.name}", "onnx")
    program, step = trace(agent, deterministic, batch)
    try:
        made = onnx_program(program, step)
    except torch.onnx.OnnxExporterError as error:
        missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
        if missing is None:
            raise
        raise UsageError(
            f"core {agent.spec.policy_arguments.get('core')!r} uses {missing[1]}, which ONNX does "
            "not have: export to .pt2"
        ) from error
    made.model.metadata_props[METADATA] = json.dumps(describe(agent, step, program, batch))
    with replacing(path) as partial:
        made.save(partial, external_data=False)


def _write_pt2(agent: Exportable, path: Path, deterministic: bool, batch: int | None) -> None:
    program, step = trace(agent, deterministic, batch)
    text = json.dumps(describe(agent, step, program, batch))
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
