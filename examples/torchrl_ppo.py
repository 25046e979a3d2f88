"""Recurrent PPO with torchrl on POPGym's RepeatPrevious.

python examples/torchrl_ppo.py --core ffm
python examples/torchrl_ppo.py --core LSTMModule
python examples/torchrl_ppo.py --workers 2
"""

from __future__ import annotations

from functools import partial

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import BaseCollector, Collector, MultiSyncCollector
from torchrl.envs import (
    Compose,
    DTypeCastTransform,
    EnvBase,
    InitTracker,
    RewardSum,
    Transform,
    TransformedEnv,
)
from torchrl.modules import (
    MLP,
    ActorValueOperator,
    OneHotCategorical,
    ProbabilisticActor,
    ValueOperator,
    set_recurrent_mode,
)
from torchrl.modules.utils import get_primers_from_module
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE
from torchrl_common import HIDDEN, Curves, dense, memory, round_to_batches, run

from rlmem.torchrl import TorchRLEnv, keep_threads

NUM_ENVS, ROW, SUITS = 64, 51, 4


def actor_critic(core: str) -> ActorValueOperator:
    """One memory with two heads, for the action (the recalled card) and the value."""
    common = TensorDictSequential(
        dense(["obs"], SUITS, "features"),
        memory(core, in_key="features", out_key="memory"),
    )
    logits = MLP(in_features=HIDDEN, out_features=SUITS, num_cells=[])
    actor = ProbabilisticActor(
        TensorDictModule(logits, in_keys=["memory"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    value = ValueOperator(MLP(in_features=HIDDEN, out_features=1, num_cells=[]), ["memory"])
    return ActorValueOperator(common, actor, value)


def make_env(primer: Transform, num_envs: int, seed: int) -> EnvBase:
    """Environments whose data include the state of the memory."""
    one_hot = {"categorical_action_encoding": False, "categorical_obs_encoding": False}
    base = TorchRLEnv("popgym-repeat", num_envs=num_envs, **one_hot)
    base.set_seed(seed)
    cast = DTypeCastTransform(torch.bool, torch.float32, in_keys=["obs"])
    return TransformedEnv(base, Compose(InitTracker(), RewardSum(), cast, primer))


def make_collector(
    policy: ActorValueOperator, steps: int, seed: int, workers: int
) -> BaseCollector:
    """A collector of rows of `ROW` steps, in this process or in worker processes."""
    actor, primer = policy.get_policy_operator(), get_primers_from_module(policy)
    batch = NUM_ENVS * ROW
    frames = {"frames_per_batch": batch, "total_frames": round_to_batches(steps, batch)}
    if not workers:
        return Collector(make_env(primer, NUM_ENVS, seed), actor, **frames)
    each = NUM_ENVS // workers
    makers = [partial(make_env, primer, each, seed + i * each) for i in range(workers)]
    return MultiSyncCollector(makers, actor, cat_results=0, **frames)


@keep_threads()
def train(core: str, steps: int, seed: int = 0, workers: int = 0, every: int = 5) -> Curves:
    """Recurrent PPO with torchrl on POPGym's RepeatPrevious."""
    torch.manual_seed(seed)
    policy = actor_critic(core)
    collector = make_collector(policy, steps, seed, workers)
    critic = policy.get_value_operator()
    gae = GAE(gamma=0.9, lmbda=0.9, value_network=critic, deactivate_vmap=True)
    loss_module = ClipPPOLoss(policy.get_policy_operator(), critic, entropy_coeff=0.01)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-3)
    curves = Curves(every)
    for data in collector:
        losses = []
        for _ in range(4):
            with set_recurrent_mode(True), torch.no_grad():
                gae(data)
            for rows in data[torch.randperm(len(data))].split(len(data) // 4):
                with set_recurrent_mode(True):
                    loss = loss_module(rows)
                optimizer.zero_grad()
                (loss["loss_objective"] + loss["loss_critic"] + loss["loss_entropy"]).backward()
                torch.nn.utils.clip_grad_norm_(loss_module.parameters(), 1.0)
                optimizer.step()
                losses.append(loss["loss_critic"].item())
        collector.update_policy_weights_()
        curves.add(data, losses)
    collector.shutdown()
    return curves


if __name__ == "__main__":
    run(train, steps=200_000, workers=0)
