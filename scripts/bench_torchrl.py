"""Benchmarks PPO updates of a torchrl pipeline with rlmem's cores and with torchrl's LSTMModule.

All contestants use the same rollout, with the states that each would have stored in it, and
torchrl's own GAE and ClipPPOLoss. They take turns; the table has medians and their ratios.
torchrl's backend "triton" needs a GPU. A second table has the overhead of a module's step over
`core.step`.

    python scripts/bench_torchrl.py [--cores ffm gru lstm s5] [--rounds 5] [--page NAME]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial

import torch
from pages import publish
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Categorical
from torchrl.envs import InitTracker, TransformedEnv
from torchrl.modules import LSTMModule, ProbabilisticActor, ValueOperator, set_recurrent_mode
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from rlmem.torchrl import MemoryModule, TorchRLEnv

TASK, MINIBATCHES, HIDDEN = "popgym-repeat", 8, 128
KEYS = {"in_key": "embed", "out_key": "memory"}


def rollout(num_envs: int, num_steps: int) -> TensorDictBase:
    """A rollout of random actions, [num_envs, num_steps]."""
    env = TransformedEnv(TorchRLEnv(TASK, num_envs=num_envs), InitTracker())
    env.set_seed(0)
    return env.rollout(num_steps, break_when_any_done=False)


def memories(names: Iterable[str]) -> dict[str, nn.Module]:
    """torchrl's module with each of its backends, and a `MemoryModule` for each name."""
    sizes = {"input_size": HIDDEN, "hidden_size": HIDDEN}
    backends = ["pad", "scan", *(["triton"] if torch.cuda.is_available() else [])]
    theirs = {
        f'LSTMModule, "{backend}"': LSTMModule(**sizes, **KEYS, recurrent_backend=backend)
        for backend in backends
    }
    ours = {f'MemoryModule("{name}")': MemoryModule(name, **sizes, **KEYS) for name in names}
    return {**theirs, **ours}


class Contestant:
    """An agent whose actor and critic share one memory, and the rollout with its stored states."""

    def __init__(self, memory: nn.Module, data: TensorDictBase) -> None:
        self.body = TensorDictSequential(
            TensorDictModule(nn.Embedding(int(data["obs"].max()) + 1, HIDDEN), ["obs"], ["embed"]),
            memory,
        )
        head = TensorDictModule(
            nn.Linear(HIDDEN, int(data["action"].max()) + 1), ["memory"], ["logits"]
        )
        actor = ProbabilisticActor(
            TensorDictSequential(self.body, head),
            in_keys=["logits"],
            distribution_class=Categorical,
            return_log_prob=True,
        )
        critic = TensorDictSequential(
            self.body, ValueOperator(nn.Linear(HIDDEN, 1), in_keys=["memory"])
        )
        # LSTMModule does not support vmap.
        theirs = isinstance(memory, LSTMModule)
        self.gae = GAE(gamma=0.99, lmbda=0.95, value_network=critic, deactivate_vmap=theirs)
        self.loss = ClipPPOLoss(actor, critic, normalize_advantage=True)
        self.adam = torch.optim.Adam(self.loss.parameters(), 3e-4)
        self.data = with_states(self.body, memory, data)
        with torch.no_grad(), set_recurrent_mode(True):
            log_prob = actor.get_dist(self.data.clone()).log_prob(data["action"])
        self.data["action_log_prob"] = log_prob

    def update(self) -> None:
        """Advantages, then one epoch of minibatches of rows."""
        data = self.data.clone()
        # By default GAE steps through recurrent modules (see docs/torchrl.md).
        with torch.no_grad(), set_recurrent_mode(True):
            self.gae(data)
        for rows in torch.randperm(len(data)).chunk(MINIBATCHES):
            losses = self.loss(data[rows])
            total = losses["loss_objective"] + losses["loss_entropy"] + losses["loss_critic"]
            self.adam.zero_grad()
            total.backward()
            self.adam.step()


@torch.no_grad()
def with_states(body: nn.Module, memory: nn.Module, data: TensorDictBase) -> TensorDictBase:
    """The rollout with the memory states that a collector would have stored."""
    primers = memory.make_tensordict_primer().primers
    state = primers.expand(len(data), *primers.shape).zero()
    steps = []
    for step in data.unbind(1):
        state = state.apply(lambda leaf, step=step: _reset(leaf, step["is_init"]))
        out = body(step.select("obs", "is_init").update(state))
        steps.append(step.copy().update(state).set("next", step["next"].copy()))
        steps[-1]["next"].update(out["next"])
        state = out["next"]
    return torch.stack(steps, 1)


def _reset(leaf: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    return leaf.masked_fill(start.reshape(-1, *(1,) * (leaf.dim() - 1)), 0)


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function, run in turns after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in seconds.items()}


def overhead(names: Iterable[str], num_envs: int, rounds: int) -> list[dict[str, str]]:
    """Microseconds of a step of the core alone, and the module's overhead, measured in turns."""
    rows = []
    for name in names:
        module = MemoryModule(name, HIDDEN, HIDDEN, **KEYS)
        start = torch.zeros(num_envs, 1, dtype=torch.bool)
        td = module.state_spec.expand(num_envs).zero()
        td.update({"embed": torch.randn(num_envs, HIDDEN), "is_init": start})
        td.update(module(td.copy())["next"])
        args = td["embed"], module.core.initial_state(num_envs), start[:, 0]
        runs: dict[str, Callable[[], object]] = {
            "core": partial(module.core.step, *args),
            "module": lambda module=module, td=td: module(td.copy()),
            "copy": td.copy,
        }
        with torch.no_grad():
            spent = {run: 1e6 * t for run, t in medians(runs, 200 * rounds).items()}
        extra = spent["module"] - spent["copy"] - spent["core"]
        columns = {"core.step, us": spent["core"], "module overhead, us": extra}
        rows.append({"core": name, **{key: f"{value:.0f}" for key, value in columns.items()}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=["ffm", "gru", "lstm", "s5"])
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page", help="write docs/results/PAGE.md and PAGE-step.md")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="torchrl|tensordict|hoptorch")
    threads = f"{torch.get_num_threads()} threads"
    steps = overhead(args.cores, 8, args.rounds)
    publish(
        f"A step of 8 rows, width {HIDDEN}, {threads}", steps, args.page and f"{args.page}-step"
    )
    data = rollout(args.num_envs, args.num_steps)
    agents = {name: Contestant(memory, data) for name, memory in memories(args.cores).items()}
    spent = medians({name: agent.update for name, agent in agents.items()}, args.rounds)
    best = min(seconds for name, seconds in spent.items() if name.startswith("LSTM"))
    frames = args.num_envs * args.num_steps
    rows = [
        {
            "memory": name,
            "us per frame": f"{1e6 * seconds / frames:.1f}",
            "speedup over LSTMModule's best": f"{best / seconds:.2f}",
        }
        for name, seconds in spent.items()
    ]
    sizes = f"{args.num_envs} x {args.num_steps} steps, {MINIBATCHES} minibatches"
    about = f"A PPO update by torchrl's GAE and ClipPPOLoss on {TASK}, {sizes}, width {HIDDEN}"
    publish(f"{about}, median of {args.rounds} rounds, {threads}", rows, args.page)


if __name__ == "__main__":
    main()
