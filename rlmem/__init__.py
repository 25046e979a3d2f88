"""Memory for reinforcement learning in PyTorch.

    result = rlmem.train("popgym-repeat", core="ffm")   # trains, and writes a run folder
    agent = rlmem.load(result.run_dir)                  # a trained agent: agent.act(obs)
    rlmem.evaluate(agent, "popgym-repeat")              # its return on unseen seeds

`rlmem.cores`, `rlmem.kernels`, `rlmem.envs`, `rlmem.algos` and `rlmem.policies` are the parts.
Nothing is imported before its first use.
"""

import sys

# `python -m rlmem` puts the current folder, maybe a stranger's, before the standard library.
if (
    [word for word in sys.orig_argv[1:4] if word != "-u"][:2] == ["-m", "rlmem"]  # -u: torchrun
    and sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
):
    del sys.path[0]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlmem import algos, cores, envs, kernels, policies
    from rlmem.cli.from_python import train
    from rlmem.errors import UsageError
    from rlmem.runs.agent import Agent, load
    from rlmem.runs.callbacks import Callback, Training
    from rlmem.runs.evaluate_agent import evaluate
    from rlmem.runs.result import Result

__version__ = "0.2.0"
__all__ = [
    "Agent",
    "Callback",
    "Result",
    "Training",
    "UsageError",
    "algos",
    "cores",
    "envs",
    "evaluate",
    "kernels",
    "load",
    "policies",
    "train",
]

_PLACES = {
    "Agent": "rlmem.runs.agent",
    "Callback": "rlmem.runs.callbacks",
    "Result": "rlmem.runs.result",
    "Training": "rlmem.runs.callbacks",
    "UsageError": "rlmem.errors",
    "evaluate": "rlmem.runs.evaluate_agent",
    "load": "rlmem.runs.agent",
    "train": "rlmem.cli.from_python",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return vars(importlib.import_module(_PLACES[name]))[name]
    if name in __all__:
        return importlib.import_module(f"rlmem.{name}")
    raise AttributeError(f"module 'rlmem' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
