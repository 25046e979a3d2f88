"""Random malformed and odd calls of all operators of `rlmem.kernels` and of all cores.

    python scripts/fuzz_kernels.py [--malformed 2000] [--odd 500] [--cores 1000] [--raw 1000]
        [--seed 0] [--sanitize]

A malformed call has one wrong argument: another shape, dtype, device or layout. It must raise a
`ValueError`, in the public operators and in the entry points of the C. An odd call is correct, but
its tensors are transposed, sliced, expanded, or negative or conjugate views, and so are the
gradients of its results: results and gradients must equal those of the definition. `--cores` are
malformed calls of `step` and `scan` of all cores, and a tenth as many odd ones. `--raw` are
malformed calls of `torch.ops.rlmem` itself, forward and backward, which may raise any exception or
return, but never end the program. `--sanitize` compiles the C with gcc's address sanitiser in a
temporary folder and makes all calls with it, so that a read outside of a tensor ends the program.
The exit code is 1 if any call failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

MODULE = "RLMEM_C_MODULE"  # environment variable: the file of the C module, if not the built one
if MODULE in os.environ:
    spec = importlib.util.spec_from_file_location("rlmem.kernels._c", os.environ[MODULE])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])

from fuzz_cases import CASES, OPERATORS, Case  # noqa: E402
from fuzz_core_cases import CORES  # noqa: E402

from rlmem.kernels import build  # noqa: E402

ROOT = Path(__file__).parents[1]
TOLERANCE = {4: 2e-4, 8: 1e-8}  # by bytes of a real number, relative to the largest entry


def changed_shapes(rng: random.Random, case: Case, name: str) -> Iterator[tuple[str, Tensor]]:
    """Copies of the tensor `name` with another shape."""
    x = case.tensors[name]
    for dim in range(x.dim()):
        if (name, dim) in case.free:
            continue
        size = x.shape[dim]
        wider = [n + (i == dim) for i, n in enumerate(x.shape)]
        yield "wide", torch.cat([x, x.narrow(dim, 0, 1)], dim) if size else x.new_zeros(wider)
        if size > 1:
            yield "narrow", x.narrow(dim, 0, size - 1)
            yield "zero-size", x.narrow(dim, 0, 0)
        other = rng.randrange(x.dim())
        if size != x.shape[other]:
            yield "swapped", x.transpose(dim, other).contiguous()
    if (name, -1) not in case.free:
        yield "more dimensions", x.unsqueeze(rng.randint(0, x.dim()))
        yield "no dimensions", x.new_zeros(())
        if x.numel():
            yield "fewer dimensions", x.select(rng.randrange(x.dim()), 0)


def changed_dtypes(case: Case, name: str) -> Iterator[tuple[str, Tensor]]:
    """Copies of the tensor `name` with a dtype that no operator takes there."""
    x = case.tensors[name]
    real = x.float() if x.is_complex() else x
    for dtype in (torch.int64, torch.int8, torch.bool, torch.float16, torch.complex64):
        if dtype not in (x.dtype, *case.dtypes):
            yield str(dtype), real.to(dtype)
    if x.dtype in (torch.bool, torch.int64):
        yield "float", x.float()


def changed_layouts(case: Case, name: str) -> Iterator[tuple[str, Any]]:
    """Copies of the tensor `name` with another layout or on another device, or no tensor at all."""
    x = case.tensors[name]
    yield "list", x.tolist()
    yield "array", x.numpy()
    yield "meta", x.to("meta")
    yield "sparse", x.to_sparse()
    if x.dim() == 2:
        yield "CSR", x.to_sparse_csr()
    if x.dim() > 1 and x.numel():
        yield "nested", torch.nested.nested_tensor(list(x.unbind(0)))
        yield "jagged", torch.nested.nested_tensor(list(x.unbind(0)), layout=torch.jagged)
    if x.dtype == torch.float32:
        yield "quantised", torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
        if x.numel():
            yield "mkldnn", x.to_mkldnn()


Cases = Mapping[str, Callable[[random.Random], Case]]


def malformed(rng: random.Random, count: int, cases: Cases) -> list[str]:
    """The problems of `count` malformed calls of some of `cases`."""
    problems, made = [], Counter[str]()
    while made.total() < count:
        operator = rng.choice(list(cases))
        case = cases[operator](rng)
        name = rng.choice(list(case.tensors))
        changes = (
            list(changed_shapes(rng, case, name)),
            list(changed_dtypes(case, name)),
            list(changed_layouts(case, name)),
        )
        kind, wrong = rng.choice(rng.choice([each for each in changes if each]))
        made[operator] += 1
        shapes = {key: list(x.shape) for key, x in case.tensors.items()}
        what = f"{operator}: {name} {kind}, of {shapes}"
        try:
            case.run(case.tensors | {name: wrong})
            problems.append(f"accepted {what}")
        except ValueError as error:
            if "\n" in str(error):
                problems.append(f"several lines {what}: {error}")
        except Exception as error:
            problems.append(f"{type(error).__name__} {what}: {str(error)[:200]}")
    print(f"{count} malformed calls of {len(made)} functions: {len(problems)} problems")
    return problems


def odd(rng: random.Random, x: Tensor) -> Tensor:
    """A tensor of the same shape and dtype that is no plain row of numbers in memory."""
    if x.dim() == 0:
        return x
    dim = rng.randrange(x.dim())
    kind = rng.choice(["plain", "transposed", "strided", "offset", "expanded", "flag", "flag"])
    if kind == "transposed":
        other = rng.randrange(x.dim())
        return x.transpose(dim, other).contiguous().transpose(dim, other)
    if kind == "strided":
        index = (*(slice(None),) * dim, slice(None, None, 2))
        return x.repeat_interleave(2, dim)[index]
    if kind == "offset":
        return torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape)
    if kind == "expanded" and x.shape[dim]:
        return x.narrow(dim, 0, 1).expand(x.shape)
    if kind == "flag" and x.is_complex():
        return x.conj()
    if kind == "flag" and x.is_floating_point():
        return torch.complex(torch.zeros_like(x), -x).conj().imag
    return x


def differs(got: Any, want: Any) -> str:
    """How far the tensors in two nested sequences are apart, if they are; else empty."""
    if not isinstance(got, Tensor):
        return next(filter(None, map(differs, got, want)), "")
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, not {list(want.shape)}"
    if not got.numel():
        return ""
    size = got.dtype.itemsize // (2 if got.is_complex() else 1)
    error = (got.to(want.dtype) - want).abs().max().item()
    limit = TOLERANCE[size] * max(1.0, want.abs().max().item())
    return "" if error <= limit else f"off by {error:.1e}"


def floating(nested: Any) -> list[Tensor]:
    """All floating-point tensors in a nested sequence."""
    if isinstance(nested, Tensor):
        return [nested] if nested.is_floating_point() or nested.is_complex() else []
    return [x for each in nested for x in floating(each)]


def differentiate(
    run: Callable[[dict[str, Tensor]], Any],
    tensors: dict[str, Tensor],
    weigh: Callable[[list[Tensor]], list[Tensor]],
) -> tuple[list[Tensor], list[Tensor]]:
    """The results, and the gradients of their sum with the weights of `weigh(results)`."""
    given = {name: x.detach() for name, x in tensors.items()}
    leaves = [x.requires_grad_() for x in floating(list(given.values()))]
    results = floating(run(given))
    grads = torch.autograd.grad(
        results, leaves, weigh(results), allow_unused=True, materialize_grads=True
    )
    return results, list(grads)


def in_double(x: Tensor) -> Tensor:
    """A plain copy in double precision, for the definition."""
    dtype = torch.promote_types(x.dtype, torch.float64) if floating(x) else x.dtype
    return x.resolve_conj().resolve_neg().to(dtype).clone(memory_format=torch.contiguous_format)


def odd_calls(rng: random.Random, count: int, cases: Cases) -> list[str]:
    """The problems of `count` correct calls with odd tensors."""
    problems = []
    for _ in range(count):
        operator = rng.choice(list(cases))
        case = cases[operator](rng)
        assert case.reference is not None
        tensors = {name: odd(rng, x) for name, x in case.tensors.items()}
        weights: list[Tensor] = []

        def weigh(results: list[Tensor], weights: list[Tensor] = weights) -> list[Tensor]:
            weights += [odd(rng, torch.randn_like(x)) for x in results]
            return weights

        try:
            got = differentiate(case.run, tensors, weigh)
            plain = {name: in_double(x) for name, x in tensors.items()}
            want = differentiate(
                case.reference, plain, lambda _, weights=weights: [in_double(x) for x in weights]
            )
            problem = differs(got, want)
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:300]}"
        if problem:
            problems.append(f"odd {operator}: {problem}")
    print(f"{count} odd calls: {len(problems)} problems")
    return problems


class Recorder(TorchDispatchMode):
    """Lists the calls of `torch.ops.rlmem`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "rlmem":
            self.calls.append((func, pytree.tree_map_only(Tensor, Tensor.detach, list(args))))
        return func(*args, **(kwargs or {}))


def recorded(rng: random.Random) -> list[tuple[Any, list[Any]]]:
    """Calls of `torch.ops.rlmem` in one call of each operator, and in their backward passes."""
    with Recorder() as recorder:
        for make in OPERATORS.values():
            case = make(rng)
            differentiate(case.run, case.tensors, lambda results: [x + 1 for x in results])
    return recorder.calls


def raw_calls(rng: random.Random, count: int) -> list[str]:
    """Malformed calls of `torch.ops.rlmem`; none may end the program, so there are no problems."""
    outcomes, calls = Counter[str](), []
    for i in range(count):
        calls = recorded(rng) if i % 200 == 0 else calls
        operator, arguments = rng.choice(calls)
        leaves, spec = pytree.tree_flatten(arguments)
        place = rng.choice([i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)])
        case = Case(lambda _: None, None, {"x": leaves[place]})
        every = [*changed_shapes(rng, case, "x"), *changed_dtypes(case, "x")]
        every += [*changed_layouts(case, "x"), ("None", None)]
        leaves[place] = rng.choice(every)[1]
        try:
            operator(*pytree.tree_unflatten(leaves, spec))
            outcomes["returned"] += 1
        except Exception as error:
            outcomes[type(error).__name__] += 1
    print(f"{count} raw calls, without a crash: {dict(outcomes)}")
    return []


def sanitized(arguments: list[str]) -> int:
    """Run this script with the C compiled with the address sanitiser; its exit code."""
    # Without the second, the sanitiser cannot handle torch's exceptions.
    libraries = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address"]
        module = build.make(flags, flags, root=ROOT.resolve()).compile(tmpdir=folder)
        # The leaks that it would report are Python's.
        settings = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
        command = [sys.executable, __file__, *arguments]
        environment = os.environ | settings | {MODULE: str(Path(folder) / module)}
        return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--malformed", type=int, default=2000, help="number of malformed calls")
    parser.add_argument("--odd", type=int, default=500, help="number of odd calls")
    parser.add_argument("--cores", type=int, default=1000, help="number of calls of cores")
    parser.add_argument("--raw", type=int, default=1000, help="number of calls of torch.ops.rlmem")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--sanitize", action="store_true", help="use the address sanitiser")
    options = parser.parse_args()
    if options.sanitize:
        return sanitized([each for each in sys.argv[1:] if each != "--sanitize"])
    # Nested, sparse and quantised tensors are prototypes or deprecated; so they warn.
    warnings.simplefilter("ignore")
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    problems = malformed(rng, options.malformed, CASES) + odd_calls(rng, options.odd, OPERATORS)
    problems += malformed(rng, options.cores, CORES) + odd_calls(rng, options.cores // 10, CORES)
    problems += raw_calls(rng, options.raw)
    for problem in problems[:20]:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
