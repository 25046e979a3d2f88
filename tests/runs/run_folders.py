"""Run folders with made-up results, for tests of their readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def write_run(
    path: Path,
    curve: Sequence[tuple[int, float | None, int]],
    returns: Sequence[float] | None = None,
    core: dict[str, Any] | str = "gru",
    env: dict[str, Any] | str = "popgym-repeat",
    **options: Any,
) -> Path:
    """Write a run with rows of step, mean return and number of episodes (None: none has ended)."""
    path.mkdir(parents=True)
    groups = {
        "core": {"name": core} if isinstance(core, str) else core,
        "env": {"name": env, "difficulty": "easy"} if isinstance(env, str) else env,
        "algo": {"name": "ppo", "gamma": 0.99},
    }
    total = curve[-1][0] if curve else 1000
    config = {**groups, "seed": 0, "total_steps": total, "eval_episodes": 2, **options}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = ["step,seconds,steps_per_second,episodes,episode_return"]
    for step, value, count in curve:
        row = (step, step / 1000, 1000, count, "" if value is None else value)
        lines.append(",".join(map(str, row)))
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    if returns is not None:
        mean = sum(returns) / len(returns)
        evaluation = {
            "step": total, "episodes": len(returns), "return_mean": mean, "return_iqm": mean,
            "returns": list(returns),
        }  # fmt: skip
        (path / "eval.json").write_text(json.dumps(evaluation))
    return path
