"""Players of bandits: optimism, posterior sampling, and Gittins' index."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors
from rlmem.envs.meta.arms import ArmsEnv
from rlmem.envs.meta.bandit import BernoulliArms
from rlmem.envs.meta.gaussian_bandit import GaussianBandit
from rlmem.envs.meta.players import Choice, Player
from rlmem.envs.meta.splits import Values
from rlmem.envs.meta.switching_bandit import SwitchingBandit

# Between which Gittins' indices are interpolated.
GRID = 256


class Record(NamedTuple):
    """How often each arm has been pulled, and what it has paid in all; may fade."""

    pulls: Float[Tensor, "N A"]
    paid: Float[Tensor, "N A"]


class ArmPlayer(Player):
    """Pulls the arm of the highest index; a subclass says what that is."""

    def __init__(self, env: ArmsEnv) -> None:
        self.env = env

    @abstractmethod
    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """What is thought of each arm."""

    def keep(self) -> Float[Tensor, "N"] | float:
        """How much of a record is left after a pull."""
        return 1.0

    def initial_state(self, batch_size: int) -> Record:
        """Nothing has been pulled."""
        none = torch.zeros(batch_size, self.env.arms, device=self.env.device)
        return Record(none, none.clone())

    def act(
        self, obs: Tensors, state: Record, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """Read what the last pull paid; pull the best arm."""
        arm = torch.nn.functional.one_hot(obs["previous_action"], self.env.arms)
        keep = torch.as_tensor(self.keep(), device=start.device).reshape(-1, 1)
        pulls = state.pulls * keep + arm
        paid = state.paid * keep + arm * obs["previous_reward"][:, None]
        record = tree.select(start, self.initial_state(len(start)), Record(pulls, paid))
        index = torch.where(obs["obs"] > 0, self.index(record), -torch.inf)
        return Choice({"action": index.argmax(1)}, record)


class UCB1(ArmPlayer):
    """Auer et al. 2002, "Finite-time analysis of the multiarmed bandit problem", figure 1.

    The mean plus `scale` sqrt(2 log t / pulls), after one pull of each arm; scale 1 is for rewards
    in [0, 1], and the noise's deviation is for Gaussian ones.
    """

    def __init__(self, env: ArmsEnv, scale: float = 1.0) -> None:
        super().__init__(env)
        self.scale = scale

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Optimistic means."""
        total = record.pulls.sum(1, keepdim=True)
        bonus = self.scale * (2 * total.clamp(min=1).log() / record.pulls).sqrt()
        return torch.where(record.pulls > 0, record.paid / record.pulls + bonus, torch.inf)


class BetaThompson(ArmPlayer):
    """Thompson sampling from the posterior of the prior that chances were drawn from: the arm
    that is best in a sample of it (Thompson 1933; Chapelle and Li 2011).
    """

    env: BernoulliArms

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Chances as they may be."""
        a, b = self.env.task.prior.float()[:, :, None].unbind(1)
        return torch.distributions.Beta(a + record.paid, b + record.pulls - record.paid).sample()


class FadingThompson(BetaThompson):
    """Thompson sampling for bandits that switch: pulls count (1 - hazard)^age (Raj and Kalyani
    2017, arXiv 1707.09727); it knows how likely switches are, and not when.
    """

    env: SwitchingBandit

    def keep(self) -> Float[Tensor, "N"]:
        """How likely there was no switch."""
        return 1 - self.env.task.hazard


class GaussThompson(ArmPlayer):
    """Thompson sampling for Gaussian arms of known prior and noise."""

    env: GaussianBandit

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Means as they may be."""
        mean, deviation = self.env.task.prior[:, :, None].unbind(1)
        # Without noise one pull tells all.
        noise = max(self.env.noise, 1e-4) ** 2
        precision = deviation**-2 + record.pulls / noise
        center = (mean * deviation**-2 + record.paid / noise) / precision
        return center + torch.randn_like(center) * precision.rsqrt()


class Gittins(ArmPlayer):
    """The arm of the highest finite-horizon Gittins index (Lattimore 2016, "Regret analysis of the
    finite-horizon Gittins index strategy for multi-armed bandits"; see `gittins`).
    """

    env: BernoulliArms

    def index(self, record: Record) -> Float[Tensor, "N A"]:
        """Indices at the number of pulls that are left."""
        won = record.paid.round().long()
        lost = (record.pulls - record.paid).round().long()
        left = self.env.episodes - (won + lost).sum(1, keepdim=True)
        domain, prior = self.env.domains["prior"], self.env.task.prior
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

    With r pulls left, an arm that has won s times and lost f times is worth in company of one that
    surely pays x in each pull

        V_r(s, f) = max(r x, p (1 + V_{r-1}(s + 1, f)) + (1 - p) V_{r-1}(s, f + 1))

    with p = (a + s) / (a + b + s + f), and its index is the x at which both are equal. The two are
    computed on a grid of x, between whose points their difference is taken to be linear.
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
    """Where a falling function, given at points of [0, 1], is 0."""
    above = (gain > 0).sum(-1, keepdim=True).clamp(1, len(sure) - 1)
    low, high = gain.gather(-1, above - 1), gain.gather(-1, above)
    share = low / (low - high)
    return (sure[above - 1] + share * (sure[1] - sure[0])).squeeze(-1)


# Horizons up to which Gittins' indices take seconds and not minutes.
GITTINS = 200


def bandit_players(env: ArmsEnv) -> dict[str, Player]:
    """The players that fit a bandit, by name."""
    if isinstance(env, GaussianBandit):
        return {"ucb": UCB1(env, env.noise), "thompson": GaussThompson(env)}
    if isinstance(env, SwitchingBandit):
        return {
            "ucb": UCB1(env),
            "thompson": BetaThompson(env),
            "fading-thompson": FadingThompson(env),
        }
    found: dict[str, Player] = {"ucb": UCB1(env), "thompson": BetaThompson(env)}
    return found | ({"gittins": Gittins(env)} if env.episodes <= GITTINS else {})
