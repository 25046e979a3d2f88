"""Programs of `torch.export`: a traced step, without needless inputs and operations.

Three changes leave the results as they are. Inputs without influence on the action are dropped,
such as the memory of a critic. Tensors that depend on weights alone are computed once. Complex
numbers become pairs of real ones, because most runtimes do not know them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from rlmem.runs.export.real import RealForm
from rlmem.runs.export.step import NEXT, Exportable, Step

# Rows of the example. Not 1, which a tracer takes for a constant.
ROWS = 3


def trace(
    agent: Exportable, deterministic: bool, batch: int | None = None
) -> tuple[ExportedProgram, Step]:
    """The agent's step as a program, with the step that lists its inputs.

    It takes any batch (for one row or more), or only the given one.
    """
    step = Step(agent, deterministic)
    program = _export(step, step, batch)
    if (needed := _needed(program, step)) != step.only:
        step = Step(agent, deterministic, needed)
        program = _export(step, step, batch)
    return _export(RealForm(fold(program.module(check_guards=False))), step, batch), step


def output_names(program: ExportedProgram) -> list[str]:
    """The names of a program's outputs, in their order."""
    spec = program.call_spec.out_spec
    assert spec is not None
    return list(pytree.tree_unflatten(range(spec.num_leaves), spec))


def _export(module: nn.Module, step: Step, batch: int | None) -> ExportedProgram:
    example = step.example(batch or ROWS)
    dims = {} if batch else {0: Dim("N", min=1)}
    with torch.no_grad():
        return torch.export.export(
            module, (example,), dynamic_shapes=(dict.fromkeys(example, dims),)
        )


def _needed(program: ExportedProgram, step: Step) -> set[str]:
    """The names of the inputs that influence the action, now or through the state."""
    placeholders = dict(zip(program.graph_signature.user_inputs, step.inputs, strict=True))
    results = program.graph.output_node().args[0]
    assert isinstance(results, tuple)
    reached = {
        name: {placeholders[node.name].name for node in _above(result) if node.name in placeholders}
        for name, result in zip(output_names(program), results, strict=True)
    }
    needed = {"start"}.union(*(names for out, names in reached.items() if not out.startswith(NEXT)))
    while True:
        after = needed.union(*(reached.get(NEXT + name, set()) for name in needed))
        if after == needed:
            return needed
        needed = after


def _above(result: Any) -> Iterator[fx.Node]:
    """The node `result` and all nodes whose values it depends on; their sizes do not count."""
    seen: set[fx.Node] = set()
    waiting = [result]
    while waiting:
        node = waiting.pop()
        if node in seen or node.target is torch.ops.aten.sym_size.int:
            continue
        seen.add(node)
        yield node
        waiting += node.all_input_nodes


def fold(module: fx.GraphModule) -> fx.GraphModule:
    """Compute the nodes of a graph that depend on weights alone, and keep them as buffers."""
    known: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            known[node] = fx.graph_module._get_attr(module, str(node.target))
        elif _repeatable(node) and known.keys() >= set(node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(known.items()):
        users = [user for user in node.users if user not in known]
        if node.op == "call_function" and users and isinstance(value, Tensor):
            name = f"folded_{number}"
            module.register_buffer(name, value.clone(memory_format=torch.contiguous_format))
            with module.graph.inserting_before(node):
                kept = module.graph.get_attr(name)
            kept.meta = dict(node.meta)
            for user in users:
                user.replace_input_with(node, kept)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _repeatable(node: fx.Node) -> bool:
    """Whether a node is an operation whose value is neither random nor changed in place."""
    if node.op != "call_function":
        return False
    tags = getattr(node.target, "tags", ())
    operations = [getattr(each.target, "_schema", None) for each in (node, *node.users)]
    changes = any(schema is not None and schema.is_mutable for schema in operations)
    return torch.Tag.nondeterministic_seeded not in tags and not changes
