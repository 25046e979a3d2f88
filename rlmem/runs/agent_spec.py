"""Everything that determines a saved policy but its weights, and its inputs outside training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from rlmem import __version__, algos
from rlmem.envs.base import DefinesSpaces, Tensors, Transition, VecEnv, find_wrapped
from rlmem.envs.previous_action import PreviousAction
from rlmem.envs.privileged import PRIVILEGED, OptionalParts
from rlmem.envs.space_json import space_from_json, space_to_json
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.files import atomic_write
from rlmem.options import check_call
from rlmem.policies import Policy
from rlmem.policies.encoders.choice import encoder_name
from rlmem.policies.privileged import critic_only_leaves
from rlmem.runs.sealed import seal, unseal
from rlmem.spaces.action_mask import NAME

FILE = "agent.json"
FORMAT = 1


@dataclass(frozen=True)
class AgentSpec:
    """Everything that determines a policy but its weights.

    `observation_space` and `action_space` are those of one environment, nested as it has them.
    `history` says which wrapper added leaves to the observations: none, `PreviousAction`, or
    `Trials` with its arguments. `privileged` are the leaves that the environment added for the
    critic. `training` has the options `env`, `seed` and `eval_max_steps` of the training, and
    `step` once it is loaded; None if Python gave its environment.
    """

    algo: str
    policy_arguments: Mapping[str, Any]
    observation_space: gym.Space
    action_space: gym.Space
    history: Mapping[str, Any] | None = None
    privileged: Mapping[str, gym.Space] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        env: VecEnv,
        algo: str,
        policy_arguments: Mapping[str, Any],
        training: Mapping[str, Any] | None = None,
    ) -> AgentSpec:
        """The spec of a policy for the environments `env`."""
        trials: Trials | None = find_wrapped(env, Trials)
        history: dict[str, Any] | None = None
        if trials is not None:
            arguments = ("episodes", "horizon", "stop_returns", "unit_reward")
            history = {key: getattr(trials, key) for key in arguments}
        elif find_wrapped(env, PreviousAction) is not None:
            history = {}
        inner: DefinesSpaces | None = find_wrapped(env, DefinesSpaces)
        if inner is None:
            raise UsageError(f"{type(env).__name__} has no single_observation_space to save")
        spaces = inner.single_observation_space, inner.single_action_space
        added = (key for key in env.observation_space if key.partition(".")[0] == PRIVILEGED)
        privileged = {key: env.observation_space[key] for key in added}
        policy = dict(policy_arguments)
        if "encoder" in policy:
            policy["encoder"] = encoder_name(policy["encoder"])
        return cls(algo, policy, *spaces, history, privileged, training)

    @property
    def core(self) -> str:
        """The name of the memory core."""
        return str(self.policy_arguments["core"])

    @property
    def has_mask(self) -> bool:
        """Whether observations have a mask of the actions, as that of an environment's infos."""
        space = self.observation_space
        return isinstance(space, gym.spaces.Dict) and NAME in space.spaces

    def write(self, run_dir: Path) -> None:
        """Write `agent.json` into a run folder."""
        atomic_write(run_dir / FILE, self.to_json() + "\n")

    def to_json(self) -> str:
        """The spec as text."""
        return seal(
            {
                "format": FORMAT,
                "rlmem": __version__,
                "algo": self.algo,
                # Without the word, `from_json` reads an agent of an older version.
                "policy": {"normalize_obs": "auto", **self.policy_arguments},
                "observation_space": space_to_json(self.observation_space),
                "action_space": space_to_json(self.action_space),
                "history": None if self.history is None else dict(self.history),
                "privileged": [[key, space_to_json(s)] for key, s in self.privileged.items()],
                "training": None if self.training is None else dict(self.training),
            }
        ).rstrip()

    @classmethod
    def from_json(cls, text: str, where: str) -> AgentSpec:
        """The spec in `text`; a `UsageError` names the place `where` if it is damaged."""
        try:
            data = unseal(text)
            if data["format"] != FORMAT:
                raise UsageError(f"{where} has format {data['format']}, and this rlmem {FORMAT}")
            obs, action = (
                space_from_json(data[f"{kind}_space"]) for kind in ("observation", "action")
            )
            # Agents of older versions had no statistics.
            policy = {"normalize_obs": False, **data["policy"]}
            hidden = {name: space_from_json(space) for name, space in data.get("privileged", [])}
            training = data.get("training")
            if not isinstance(training, Mapping | None):
                raise TypeError(f"training must be a mapping, not {training!r}")
            return cls(data["algo"], policy, obs, action, data["history"], hidden, training)
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
        policy_type = algos.requirements(self.algo).policy_type
        spaces = env.wrapped.observation_space, env.wrapped.action_space
        check_call("policy", policy_type, self.policy_arguments)
        return policy_type(*spaces, **self.policy_arguments)


class InputEnv:
    """An environment of one whose observations and rewards are given by the caller.

    Inside the wrappers of training (`wrapped`), it adds the same history to the observations.
    Leaves that only the critic reads may be missing.
    """

    num_envs = 1
    device = torch.device("cpu")

    def __init__(self, spec: AgentSpec) -> None:
        self.obs = FlatSpace("obs", spec.observation_space)
        self.action = ActionSpace("action", spec.action_space)
        self.observation_space = {**self.obs.spaces, **spec.privileged}
        chosen = spec.policy_arguments.get("critic_only")
        self.optional = OptionalParts(self.obs, critic_only_leaves(self.observation_space, chosen))
        self.action_space = self.action.spaces
        self.single_observation_space = spec.observation_space
        self.single_action_space = spec.action_space
        self.next: Any = None
        self.wrapped = spec.add_history(self)

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """The leaves of the observation in `next`."""
        return self.optional.stack(self.next)

    def step(self, action: Tensors) -> Transition:
        """The observation, reward and end of episode in `next`."""
        raw, reward, done = self.next
        obs, end = self.optional.stack(raw), torch.tensor([done])
        return Transition(obs, torch.tensor([reward]), end, torch.zeros_like(end), obs, end)

    def close(self) -> None:
        """Does nothing."""
