"""A trained agent outside training: load it, act with it, save it as one file.

Needs neither the environment nor Hydra nor torchrl: `agent.json` in a run folder, or in the header
of a `.rlmem` file, holds the spaces and the settings of the policy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlmem import algos
from rlmem.envs.base import Tensors, VecEnv, find_wrapped
from rlmem.envs.info_mask import merge
from rlmem.errors import UsageError
from rlmem.files import expanded, replacing
from rlmem.policies import Policy
from rlmem.runs import checkpoint as checkpoints
from rlmem.runs.agent_spec import FILE, AgentSpec, InputEnv
from rlmem.runs.archives import check_safetensors
from rlmem.runs.run_files import sealed_text
from rlmem.runs.size_limit import limited
from rlmem.runs.trust import require_code
from rlmem.spaces.action_mask import NAME


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
        action_mask: Any = None,
    ) -> Any:
        """The next action.

        `act(obs)` takes one observation as the environment gives it (nested dicts and tuples too)
        and returns an action that the environment takes. An agent that learns from its rewards
        also needs the last `reward`, and `new_episode=True` at the first observation of each
        further episode of a trial. If the environment gives its mask of the actions in its infos,
        it is `action_mask=info["action_mask"]`. `act(obs, state, start)` is the batched form
        without memory inside: `obs` are the leaves [N, ...] as a `VecEnv` gives them; it returns
        the leaves of the actions and the next state.
        """
        if state is not None or start is not None:
            if state is None or start is None:
                raise UsageError("act(obs, state, start) needs both state and start")
            step = self.policy.act(self._to_device(obs), state, start, deterministic)
            return step.action, step.state
        leaves, first = self._read(
            self.env.wrapped, self._with_mask(obs, action_mask), reward, new_episode
        )
        mask = self.policy.mask
        if mask is not None and mask.none_legal(leaves).any():
            raise UsageError(f"the mask {', '.join(mask.keys)} allows no action")
        step = self.policy.act(leaves, self.state, first, deterministic)
        self.state = step.state
        self.action = {key: leaf.cpu() for key, leaf in step.action.items()}
        return _first(self.spec.action_space, self.env.action.write(self.action, 1))

    def _with_mask(self, obs: Any, action_mask: Any) -> Any:
        """The observation as in training: the mask of an environment's infos is part of it."""
        known = self.spec.has_mask
        if action_mask is not None and not known:
            raise UsageError("this agent was trained without an action mask")
        if action_mask is not None:
            return merge(obs, action_mask)
        if known and not (isinstance(obs, Mapping) and NAME in obs):
            raise UsageError("this agent needs a mask: act(obs, action_mask=info['action_mask'])")
        return obs

    @torch.no_grad()
    def value(
        self,
        obs: Any,
        state: Any = None,
        start: Bool[Tensor, "N"] | None = None,
        *,
        reward: float | None = None,
        new_episode: bool = False,
        action_mask: Any = None,
    ) -> Any:
        """The critic's value of an observation, before `act`; the memory does not change.

        Takes the arguments of `act`; the batched form returns values [N]. Raises `UsageError` if
        the policy has no critic, or one that needs more than the observation.
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
            self._require_critic_leaves(obs)
            return critic.value(self._to_device(obs), state, start) * self._value_unit
        # A copy, because the wrapper counts episodes.
        env, obs = copy.copy(self.env.wrapped), self._with_mask(obs, action_mask)
        leaves, first = self._read(env, obs, reward, new_episode)
        self._require_critic_leaves(leaves)
        return critic.value(leaves, self.state, first).item() * self._value_unit

    def _require_critic_leaves(self, leaves: Tensors) -> None:
        missing = [key for key in self.policy.critic_only if key not in leaves]
        if missing:
            raise UsageError(
                f"the critic also sees {', '.join(missing)}, which only the training had: "
                "value(obs, state, start) takes them as leaves"
            )

    @property
    def _value_unit(self) -> float:
        """The unit of the critic's values: the deviation of returns if rewards are normalised."""
        moments = getattr(self.policy, "reward_moments", None)
        return 1.0 if moments is None else moments.deviation.item()

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

    def export(
        self, path: str | Path, deterministic: bool = True, batch: int | None = None
    ) -> None:
        """Write one step for programs without rlmem: `.onnx`, or `.pt2` for `torch.export.load`.

        The action is the most likely one or a sample; the step is for any number of environments,
        or for `batch`. A path that ends in `.rlmem` is that of `save`.
        """
        from rlmem.runs.export import export

        export(self, path, deterministic, batch)


def load(
    source: str | Path,
    device: str = "cpu",
    checkpoint: str | int = "last",
    trust: bool = False,
) -> Agent:
    """The agent in a run folder, or in a file that `Agent.save` wrote.

    `checkpoint` is "last", "best" or a step of a run. Raises `UsageError` if there is no agent, it
    is damaged, or it names code to import (an encoder of your own) and `trust` is not given.
    """
    path = expanded(source)
    if path.is_dir():
        found = checkpoints.load(path, checkpoint, trainer=False)
        where = str(path / FILE)
        text = sealed_text(path, FILE, lambda text: AgentSpec.from_json(text, where))
        if text is None:
            raise UsageError(f"{path} has no {FILE}: it is of an older rlmem")
        spec = AgentSpec.from_json(text, where)
        if spec.training is not None:
            spec = replace(spec, training={**spec.training, "step": found.step})
        require_code(spec.policy_arguments, path, trust)
        with limited(None if trust else found.weights, path):
            policy = spec.make_policy()
        found.load_weights(policy)
        return Agent(policy, spec, torch.device(device))
    if not path.is_file():
        raise UsageError(f"{path} is neither a run folder nor an agent file")
    if checkpoint != "last":
        raise UsageError(f"{path} is a file with one agent: it has no checkpoint {checkpoint!r}")
    spec, weights = _read_file(path)
    require_code(spec.policy_arguments, path, trust)
    with limited(None if trust else weights, path):
        policy = spec.make_policy()
    checkpoints.Checkpoint(path, 0, weights, {}).load_weights(policy)
    return Agent(policy, spec, torch.device(device))


def _read_file(path: Path) -> tuple[AgentSpec, dict[str, Tensor]]:
    try:
        check_safetensors(path)
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("agent")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
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
