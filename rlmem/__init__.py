"""Memory for reinforcement learning in PyTorch.

`rlmem.load(run_or_file)` is a trained agent: `agent.act(obs)`. `rlmem.evaluate(agent, env)` is its
return on unseen seeds. Nothing is imported before the first use.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Agent", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return vars(importlib.import_module("rlmem.runs.agent"))[name]
    raise AttributeError(f"module 'rlmem' has no attribute {name!r}")
