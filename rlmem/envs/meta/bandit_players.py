"""Reference players of bandits: UCB, Thompson sampling, Gittins' index."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors
from rlmem.envs.meta.arms import BanditTasks
from rlmem.envs.meta.gaussian_bandit import GaussianBandit
from rlmem.envs.meta.players import Choice, Player
from rlmem.envs.meta.splits import Values
from rlmem.envs.meta.switching_bandit import SwitchingBandit
from rlmem.envs.meta.task_env import TaskEnv

# The number of points between which Gittins' indices are interpolated.
GRID = 256


class Record(NamedTuple):
    """The number of pulls and the total payout of each arm; may be discounted."""

    pulls: Float[Tensor, "N A"]
    paid: Float[Tensor, "N A"]


class ArmPlayer(Player):
    """Pulls the arm of the highest index, which a subclass defines."""

    def __init__(self, env: TaskEnv, tasks: BanditTasks) -> None:
        """`tasks` is the distribution of `env`."""
        self.env, self.tasks = env, tasks

    @abstractmethod
    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """The index of each arm."""

    def keep(self) -> Float[Tensor, "N"] | float:
        """The factor by which older pulls are discounted after a pull."""
        return 1.0

    def initial_state(self, batch_size: int) -> Record:
        """No pulls."""
        none = torch.zeros(batch_size, self.tasks.arms, device=self.env.device)
        return Record(none, none.clone())

    def act(
        self, obs: Tensors, state: Record, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """Record the last payout; pull the arm of the highest index."""
        arm = torch.nn.functional.one_hot(obs["previous_action"], self.tasks.arms)
        keep = torch.as_tensor(self.keep(), device=start.device).reshape(-1, 1)
        pulls = state.pulls * keep + arm
        paid = state.paid * keep + arm * obs["previous_reward"][:, None]
        record = tree.select(start, self.initial_state(len(start)), Record(pulls, paid))
        index = torch.where(obs["obs"] > 0, self.index(record), -torch.inf)
        return Choice({"action": index.argmax(1)}, record)


class UCB1(ArmPlayer):
    """Auer et al. 2002, "Finite-time analysis of the multiarmed bandit problem", figure 1.

    The mean plus `scale` sqrt(2 log t / pulls), after one pull of each arm. `scale` is 1 for
    rewards in [0, 1], and the deviation of the noise for Gaussian rewards.
    """

    def __init__(self, env: TaskEnv, tasks: BanditTasks, scale: float = 1.0) -> None:
        super().__init__(env, tasks)
        self.scale = scale

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Optimistic means."""
        total = record.pulls.sum(1, keepdim=True)
        bonus = self.scale * (2 * total.clamp(min=1).log() / record.pulls).sqrt()
        return torch.where(record.pulls > 0, record.paid / record.pulls + bonus, torch.inf)


class BetaThompson(ArmPlayer):
    """Thompson sampling with the true prior of the chances: the best arm of a sample from the
    posterior (Thompson 1933; Chapelle and Li 2011).
    """

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Chances sampled from the posterior."""
        a, b = self.env.task.prior.float()[:, :, None].unbind(1)
        return torch.distributions.Beta(a + record.paid, b + record.pulls - record.paid).sample()


class FadingThompson(BetaThompson):
    """Thompson sampling for switching bandits: pulls count (1 - hazard)^age (Raj and Kalyani 2017,
    arXiv 1707.09727). It knows the probability of switches, but not their times.
    """

    def keep(self) -> Float[Tensor, "N"]:
        """The probability that there was no switch."""
        return 1 - self.env.task.hazard


class GaussThompson(ArmPlayer):
    """Thompson sampling for Gaussian arms of known prior and noise."""

    tasks: GaussianBandit

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Means sampled from the posterior."""
        mean, deviation = self.env.task.prior[:, :, None].unbind(1)
        # At least 1e-4: without noise one pull would make the precision infinite.
        noise = max(self.tasks.noise, 1e-4) ** 2
        precision = deviation**-2 + record.pulls / noise
        center = (mean * deviation**-2 + record.paid / noise) / precision
        return center + torch.randn_like(center) * precision.rsqrt()


class Gittins(ArmPlayer):
    """The arm of the highest finite-horizon Gittins index (Lattimore 2016, "Regret analysis of the
    finite-horizon Gittins index strategy for multi-armed bandits"; see `gittins`).
    """

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Indices for the number of remaining pulls."""
        won = record.paid.round().long()
        lost = (record.pulls - record.paid).round().long()
        left = self.env.episodes - (won + lost).sum(1, keepdim=True)
        domain, prior = self.tasks.domains["prior"], self.env.task.prior
        assert isinstance(domain, Values)
        index = torch.zeros_like(record.paid)
        for a, b in domain.values:
            table = gittins(self.env.episodes, a, b).to(index.device)
            chosen = (prior == prior.new_tensor([a, b])).all(1, keepdim=True)
            index = torch.where(chosen, table[left, won, lost], index)
        return index


@lru_cache
def gittins(horizon: int, a: int, b: int) -> Float[Tensor, "left won lost"]:
    """Indices of a Bernoulli arm with prior Beta(a, b): [horizon + 1, horizon, horizon].

    With r remaining pulls, an arm with s wins and f losses, beside an arm that always pays x, has
    the value

        V_r(s, f) = max(r x, p (1 + V_{r-1}(s + 1, f)) + (1 - p) V_{r-1}(s, f + 1))

    with p = (a + s) / (a + b + s + f). The index is the x at which both arguments are equal. They
    are computed on a grid of x, and their difference is interpolated linearly between grid points.
    """
    sure = torch.linspace(0, 1, GRID)
    index = torch.zeros(horizon + 1, horizon, horizon)
    value = torch.zeros(horizon + 1, horizon + 1, GRID)
    for left in range(1, horizon + 1):
        size = horizon - left + 1
        won, lost = torch.arange(size)[:, None, None], torch.arange(size)[None, :, None]
        chance = (a + won) / (a + b + won + lost)
        play = chance * (1 + value[1 : size + 1, :size]) + (1 - chance) * value[:size, 1 : size + 1]
        gain = play - left * sure
        index[left, :size, :size] = _zero(gain, sure)
        value = torch.maximum(play, left * sure)
    return index


def _zero(gain: Float[Tensor, "S S X"], sure: Float[Tensor, "X"]) -> Float[Tensor, "S S"]:
    """The zero of a decreasing function, given at points of [0, 1]."""
    above = (gain > 0).sum(-1, keepdim=True).clamp(1, len(sure) - 1)
    low, high = gain.gather(-1, above - 1), gain.gather(-1, above)
    fraction = low / (low - high)
    return (sure[above - 1] + fraction * (sure[1] - sure[0])).squeeze(-1)


# Up to this horizon Gittins' indices take seconds, beyond it minutes.
GITTINS = 200


def bandit_players(env: TaskEnv) -> dict[str, Player]:
    """The players that fit the bandits of `env`, by name; none if its tasks are no bandits."""
    tasks = env.distribution
    if not isinstance(tasks, BanditTasks):
        return {}
    if isinstance(tasks, GaussianBandit):
        return {"ucb": UCB1(env, tasks, tasks.noise), "thompson": GaussThompson(env, tasks)}
    found: dict[str, Player] = {"ucb": UCB1(env, tasks), "thompson": BetaThompson(env, tasks)}
    if isinstance(tasks, SwitchingBandit):
        found["fading-thompson"] = FadingThompson(env, tasks)
    elif env.episodes <= GITTINS:
        found["gittins"] = Gittins(env, tasks)
    return found
