"""PPO and PQN give the same results, bit for bit, when their parts are captured and replayed.

The graphs are stand-ins on the CPU (see `recorded_graph.py`), or CUDA graphs where there is a GPU.
Both runs are as on a device: no step reads a value.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlmem import envs
from rlmem.algos import NonFiniteLoss
from rlmem.algos.optimizer import ClippedAdam
from rlmem.algos.ppo import PPO
from rlmem.algos.pqn import PQN
from rlmem.compiled import Graphs
from rlmem.envs import counter_rng
from rlmem.envs.tensor_env import StateEnv
from rlmem.policies import ActorCritic, QPolicy
from tests.recorded_graph import RecordedGraph

CPU = torch.device("cpu")
ENVS, ITERATIONS = 4, 5
KINDS: dict[str, Any] = {"ppo": (PPO, ActorCritic), "pqn": (PQN, QPolicy)}
CASES: list[Any] = [
    ("ppo", "popgym-position-only-cartpole", {}),
    ("pqn", "popgym-position-only-cartpole", {"normalize_reward": True}),
    ("ppo", "meta-bandit", {"predict_obs": 0.1, "predict_reward": 0.1, "clip_value": 0.2}),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            ("ppo", "popgym-minesweeper", {"separate_critic": True, "target_kl": 1e-4}),
            ("ppo", "meta-point-robot", {"normalize_reward": True}),
            ("pqn", "popgym-minesweeper", {"dueling": True}),
        ]
    ),
]


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateEnv, "_may_ask", False)
    monkeypatch.setattr(counter_rng, "BLOCK", 8)


def make(algo: str, task: str, core: str = "gru", device: Any = CPU, **options: Any) -> Any:
    torch.manual_seed(0)
    kind, policy_type = KINDS[algo]
    env = envs.make(task, num_envs=ENVS, device=device)
    shared = ("separate_critic", "predict_obs", "predict_reward", "dueling", "normalize_reward")
    own = {key: options[key] for key in shared if key in options}
    spaces = env.observation_space, env.action_space
    policy = policy_type(*spaces, core=core, hidden_size=8, **own).to(device)
    sizes = {"num_steps": 16, "num_epochs": 2, "num_minibatches": 2}
    return kind(env, policy, list(range(ENVS)), **sizes, **options)


def without(learner: Any) -> Any:
    """The algorithm without graphs, as on a device."""
    if learner.optimizer.rate is None:
        learner.optimizer.stay_on_device()
        learner.collector.final = learner.collector._final_values()
    return learner


def captured(learner: Any, lines: list[str] | None = None) -> Any:
    """The algorithm with graphs; `lines` gets what cannot be captured."""
    device = learner.collector.env.device
    graph = torch.cuda.CUDAGraph if device.type == "cuda" else RecordedGraph
    learner.compile(Graphs(device, graph, [].append if lines is None else lines.append))
    return learner


def trained(learner: Any, first: int = 0, last: int = ITERATIONS) -> list[Any]:
    """Metrics of some iterations, then weights, state and random numbers after them."""
    metrics = [learner.iterate(i / ITERATIONS) for i in range(first, last)]
    weights = {key: leaf.clone() for key, leaf in learner.policy.state_dict().items()}
    return [metrics, weights, learner.state_dict(), torch.get_rng_state()]


def assert_same(one: Any, other: Any) -> None:
    """All tensors and numbers in two trees are equal, NaN included."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5)), (one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for parts in zip(one, other, strict=True):
            assert_same(*parts)
    else:
        assert one == other or one != one


@pytest.mark.parametrize(("algo", "task", "options"), CASES)
def test_captured_training_is_the_same(algo: str, task: str, options: dict[str, Any]) -> None:
    expected = trained(without(make(algo, task, **options)))
    lines: list[str] = []
    before = RecordedGraph.captures, RecordedGraph.replays
    learner = captured(make(algo, task, **options), lines)
    assert_same(trained(learner), expected)
    assert not lines
    assert learner.optimizer.captured.entries
    minibatches = sum(
        entry.graph is not None for entry in learner.optimizer.captured.entries.values()
    )
    steps = sum(each is not None for each in learner.collector.captured.recorded.values())
    assert minibatches == 1
    assert steps >= 1
    assert RecordedGraph.captures == before[0] + minibatches + steps
    # All minibatches but the first two, and some steps of collecting.
    updates = int(sum(metrics["epochs"] for metrics in expected[0])) * 2
    assert RecordedGraph.replays - before[1] > updates - 2


@pytest.mark.gpu
@pytest.mark.parametrize("core", ["ffm", "gru"])
@pytest.mark.parametrize(
    ("algo", "task"), [("ppo", "popgym-repeat"), ("pqn", "popgym-minesweeper")]
)
def test_cuda_graphs_give_the_same_results(algo: str, task: str, core: str) -> None:
    device = torch.device("cuda", 0)
    generator = torch.cuda.default_generators[0]
    found = []
    for prepare in (without, without, captured):
        learner = prepare(make(algo, task, core, device))
        results = [*trained(learner, last=12), generator.get_state()]
        found.append(results)
    assert not learner.collector.captured.failed
    assert not learner.optimizer.captured.failed
    try:
        assert_same(found[1], found[0])
    except AssertionError:  # the operations themselves do not repeat their last bits
        torch.testing.assert_close(found[2][1], found[0][1], rtol=1e-3, atol=1e-5)
    else:
        assert_same(found[2], found[0])


def test_a_captured_training_goes_on_exactly_from_its_state() -> None:
    task = "popgym-position-only-cartpole"
    expected = trained(captured(make("ppo", task)))
    first = captured(make("ppo", task))
    _, weights, state, random = trained(first, last=3)
    second = captured(make("ppo", task))
    trained(second, last=1)  # its graphs have other addresses than the state that is loaded
    second.policy.load_state_dict(weights)
    second.load_state_dict(state)
    torch.set_rng_state(random)
    found = trained(second, first=3)
    assert_same(found[1:], expected[1:])
    assert_same(found[0], expected[0][3:])


def test_the_state_is_that_of_a_training_on_a_cpu() -> None:
    # Without device-side numbers: the step size is a number there.
    plain = make("ppo", "popgym-repeat")
    plain.iterate(0.0)
    state = captured(make("ppo", "popgym-repeat"))
    state.load_state_dict(plain.state_dict())
    groups = state.state_dict()["optimizer"]["param_groups"]
    assert groups == plain.state_dict()["optimizer"]["param_groups"]
    assert isinstance(groups[0]["lr"], float)


def test_a_captured_minibatch_that_is_not_finite_changes_no_weight() -> None:
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    plain = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer, expected = (ClippedAdam([each], 0.1, 1.0) for each in (x, plain))
    optimizer.compile(Graphs(CPU, RecordedGraph))
    weights = [x]  # no argument: a graph reads it where it is

    def loss_of(weight: list[nn.Parameter], factor: Tensor) -> Any:
        return (weight[0].square() * factor).sum(), {"factor": factor.sum()}

    for number, factor in enumerate([2.0, 3.0, 4.0, torch.inf, 5.0]):
        metrics = optimizer.minimize(
            loss_of, (weights, torch.full((2,), factor)), f"update {number}"
        )
        assert metrics["factor"] == 2 * factor
    assert x.isfinite().all()
    with pytest.raises(NonFiniteLoss, match=r"the loss is inf .* in update 3"):
        optimizer.check()
    optimizer.minimize(loss_of, (weights, torch.full((2,), 6.0)), "later")
    optimizer.check()
    for factor in (2.0, 3.0, 4.0, 6.0):
        expected.minimize(loss_of, ([plain], torch.full((2,), factor)), "on the CPU")
    torch.testing.assert_close(x, plain)


def test_a_core_that_waits_runs_as_before_and_says_so_once() -> None:
    expected = trained(without(make("ppo", "popgym-repeat")), last=2)
    learner = make("ppo", "popgym-repeat")
    act = learner.policy.act_with_value

    def waiting(*given: Any) -> Any:
        step = act(*given)
        assert step.value.sum().item() < torch.inf
        return step

    learner.policy.act_with_value = waiting
    lines: list[str] = []
    found = trained(captured(learner, lines), last=2)
    assert lines == []  # no kind of step came twice: nothing was captured
    found = trained(learner, first=2)
    assert_same(found[1:], trained(without(make("ppo", "popgym-repeat")))[1:])
    (line,) = lines
    assert line.startswith("no CUDA graph of the step of collecting: operation not permitted")
    assert expected[0]
