"""A trained agent outside training: load it, act with it, save it as one file.

Needs neither the environment nor Hydra nor torchrl: `agent.json` in a run folder, or in the header
of a `.rlmem` file, holds the spaces and the settings of the policy.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlmem import __version__, algos
from rlmem.envs.base import DefinesSpaces, Tensors, Transition, VecEnv, find_wrapped
from rlmem.envs.previous_action import PreviousAction
from rlmem.envs.space_json import space_from_json, space_to_json
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.files import atomic_write, replacing
from rlmem.policies import Policy
from rlmem.runs import checkpoint as checkpoints

FILE = "agent.json"
FORMAT = 1


@dataclass(frozen=True)
class AgentSpec:
    """Everything that determines a policy but its weights.

    `observation_space` and `action_space` are those of one environment, nested as it has them.
    `history` says which wrapper added leaves to the observations: none, `PreviousAction`, or
    `Trials` with its arguments.
    """

    algo: str
    policy_arguments: Mapping[str, Any]
    observation_space: gym.Space
    action_space: gym.Space
    history: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, env: VecEnv, algo: str, policy_arguments: Mapping[str, Any]) -> AgentSpec:
        """The spec of a policy for the environments `env`."""
        trials: Trials | None = find_wrapped(env, Trials)
        history: dict[str, Any] | None = None
        if trials is not None:
            arguments = ("episodes", "horizon", "stop_returns")
            history = {key: getattr(trials, key) for key in arguments}
        elif find_wrapped(env, PreviousAction) is not None:
            history = {}
        inner: DefinesSpaces | None = find_wrapped(env, DefinesSpaces)
        if inner is None:
            raise UsageError(f"{type(env).__name__} has no single_observation_space to save")
        spaces = inner.single_observation_space, inner.single_action_space
        return cls(algo, dict(policy_arguments), *spaces, history)

    def write(self, run_dir: Path) -> None:
        """Write `agent.json` into a run folder."""
        atomic_write(run_dir / FILE, self.to_json() + "\n")

    def to_json(self) -> str:
        """The spec as text."""
        return json.dumps(
            {
                "format": FORMAT,
                "rlmem": __version__,
                "algo": self.algo,
                "policy": dict(self.policy_arguments),
                "observation_space": space_to_json(self.observation_space),
                "action_space": space_to_json(self.action_space),
                "history": None if self.history is None else dict(self.history),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str, where: str) -> AgentSpec:
        """The spec in `text`; a `UsageError` names the place `where` if it is damaged."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise UsageError(f"{where} has format {data['format']}, and this rlmem {FORMAT}")
            obs, action = (
                space_from_json(data[f"{kind}_space"]) for kind in ("observation", "action")
            )
            return cls(data["algo"], data["policy"], obs, action, data["history"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{where} is damaged: {error!r}") from error

    def add_history(self, env: VecEnv) -> VecEnv:
        """`env` in the wrapper that adds history to its observations, unless it has it already."""
        if self.history is None or find_wrapped(env, PreviousAction) is not None:
            return env
        return Trials(env, **self.history) if self.history else PreviousAction(env)

    def make_policy(self) -> Policy:
        """A policy with fresh weights."""
        env = InputEnv(self)
        needs = algos.requirements(self.algo)
        return needs.policy_type(
            env.wrapped.observation_space, env.wrapped.action_space, **self.policy_arguments
        )


class InputEnv:
    """An environment of one whose observations and rewards are given by the caller.

    Inside the wrappers of training (`wrapped`), it adds the same history to the observations.
    """

    num_envs = 1
    device = torch.device("cpu")

    def __init__(self, spec: AgentSpec) -> None:
        self.obs = FlatSpace("obs", spec.observation_space)
        self.action = ActionSpace("action", spec.action_space)
        self.observation_space = self.obs.spaces
        self.action_space = self.action.spaces
        self.single_observation_space = spec.observation_space
        self.single_action_space = spec.action_space
        self.next: Any = None
        self.wrapped = spec.add_history(self)

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """The leaves of the observation in `next`."""
        return self.obs.stack([self.next])

    def step(self, action: Tensors) -> Transition:
        """The observation, reward and end of episode in `next`."""
        raw, reward, done = self.next
        obs, end = self.obs.stack([raw]), torch.tensor([done])
        return Transition(obs, torch.tensor([reward]), end, torch.zeros_like(end), obs, end)

    def close(self) -> None:
        """Does nothing."""


@runtime_checkable
class HasValue(Protocol):
    """A policy with a critic."""

    def value(self, obs: Tensors, state: Any, start: Bool[Tensor, "N"]) -> Float[Tensor, "N"]: ...


class Agent:
    """A policy with its memory, for one environment (`act(obs)`) or a batch of them.

    `spec` describes the policy. The memory of `act(obs)` is inside; `reset` empties it.
    """

    def __init__(self, policy: Policy, spec: AgentSpec, device: torch.device) -> None:
        self.policy = policy.to(device).eval()
        self.spec = spec
        self.device = device
        self.env = InputEnv(spec)
        self.reset()

    def reset(self) -> None:
        """Empty the memory: the next observation is the first of an episode (or trial)."""
        self.state = self.policy.initial_state(1)
        self.action: Tensors | None = None

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        state: Any = None,
        start: Bool[Tensor, "N"] | None = None,
        *,
        deterministic: bool = True,
        reward: float | None = None,
        new_episode: bool = False,
    ) -> Any:
        """The next action.

        `act(obs)` takes one observation as the environment gives it (nested dicts and tuples too)
        and returns an action that the environment takes. An agent that learns from its rewards
        also needs the last `reward`, and `new_episode=True` at the first observation of each
        further episode of a trial. `act(obs, state, start)` is the batched form without memory
        inside: `obs` are the leaves [N, ...] as a `VecEnv` gives them; it returns the leaves of
        the actions and the next state.
        """
        if state is not None or start is not None:
            if state is None or start is None:
                raise UsageError("act(obs, state, start) needs both state and start")
            step = self.policy.act(self._to_device(obs), state, start, deterministic)
            return step.action, step.state
        leaves, first = self._read(self.env.wrapped, obs, reward, new_episode)
        step = self.policy.act(leaves, self.state, first, deterministic)
        self.state = step.state
        self.action = {key: leaf.cpu() for key, leaf in step.action.items()}
        return _first(self.spec.action_space, self.env.action.write(self.action, 1))

    @torch.no_grad()
    def value(
        self,
        obs: Any,
        state: Any = None,
        start: Bool[Tensor, "N"] | None = None,
        *,
        reward: float | None = None,
        new_episode: bool = False,
    ) -> Any:
        """The critic's value of an observation, before `act`; the memory does not change.

        Takes the arguments of `act`; the batched form returns values [N]. Raises `UsageError` if
        the policy has no critic.
        """
        critic = self.policy
        estimates = algos.requirements(self.spec.algo).estimates_returns
        if not estimates or not isinstance(critic, HasValue):
            raise UsageError(
                f"an agent of algo {self.spec.algo!r} has no value: it has no critic, or one that "
                "does not estimate returns in the units of the rewards"
            )
        if state is not None or start is not None:
            if state is None or start is None:
                raise UsageError("value(obs, state, start) needs both state and start")
            return critic.value(self._to_device(obs), state, start)
        # A copy, because the wrapper counts episodes.
        leaves, first = self._read(copy.copy(self.env.wrapped), obs, reward, new_episode)
        return critic.value(leaves, self.state, first).item()

    def _read(
        self, env: VecEnv, obs: Any, reward: float | None, new_episode: bool
    ) -> tuple[Tensors, Tensor]:
        """The policy's observation from `env`, and whether memory is reset before it."""
        inputs: InputEnv = find_wrapped(env, InputEnv)
        if self.action is None:
            inputs.next = obs
            leaves, first = env.reset(), torch.tensor([True])
        else:
            if reward is None and self.spec.history:
                raise UsageError("this agent learns from its rewards: act(obs, reward=...)")
            inputs.next = obs, float(reward or 0.0), new_episode
            step = env.step(self.action)
            leaves, first = step.obs, step.memory_reset
        return self._to_device(leaves), first.to(self.device)

    def _to_device(self, leaves: Tensors) -> Tensors:
        return {key: leaf.to(self.device) for key, leaf in leaves.items()}

    def save(self, path: str | Path) -> None:
        """Write the agent as one file: safetensors, with the spec in the header."""
        weights = checkpoints.finite_weights(self.policy)
        with replacing(Path(path)) as partial:
            save_file(weights, partial, {"agent": self.spec.to_json()})


def load(source: str | Path, device: str = "cpu", checkpoint: str | int = "last") -> Agent:
    """The agent in a run folder, or in a file that `Agent.save` wrote.

    `checkpoint` is "last", "best" or a step of a run. Raises `UsageError` if there is no agent, or
    it is damaged.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = checkpoints.load(path, checkpoint)
        spec_file = path / FILE
        if not spec_file.is_file():
            raise UsageError(f"{path} has no {FILE}: it is of an older rlmem")
        spec = AgentSpec.from_json(spec_file.read_text(), str(spec_file))
        policy = spec.make_policy()
        found.load_weights(policy)
        return Agent(policy, spec, torch.device(device))
    if not path.is_file():
        raise UsageError(f"{path} is neither a run folder nor an agent file")
    if checkpoint != "last":
        raise UsageError(f"{path} is a file with one agent: it has no checkpoint {checkpoint!r}")
    spec, weights = _read_file(path)
    policy = spec.make_policy()
    checkpoints.Checkpoint(path, 0, weights, {}).load_weights(policy)
    return Agent(policy, spec, torch.device(device))


def _read_file(path: Path) -> tuple[AgentSpec, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("agent")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path} is not an agent file: {error}") from error
    if text is None:
        raise UsageError(f"{path} is not an agent file: its header has no 'agent'")
    return AgentSpec.from_json(text, str(path)), weights


def _first(space: gym.Space, batch: Any) -> Any:
    """The first sample of a batch that `ActionSpace.write` returns, as `space` has it."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _first(part, batch[key]) for key, part in space.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_first(part, entry) for part, entry in zip(space, batch, strict=True))
    return batch[0]
