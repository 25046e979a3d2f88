"""Recurrent SAC with torchrl on a pendulum without its velocity, on slices of a replay buffer.

python examples/torchrl_sac.py --core ffm
python examples/torchrl_sac.py --core LSTMModule
"""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import Compose, InitTracker, RewardSum, TransformedEnv
from torchrl.modules import (
    MLP,
    NormalParamExtractor,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
    set_recurrent_mode,
)
from torchrl.modules.utils import get_primers_from_module
from torchrl.objectives import SACLoss, SoftUpdate
from torchrl_common import HIDDEN, Curves, dense, memory, round_to_batches, run

from rlmem.torchrl import TorchRLEnv

NUM_ENVS, ROW, SLICES, LENGTH = 16, 25, 32, 16


def actor_network(core: str, env: TorchRLEnv) -> ProbabilisticActor:
    """The distribution of torques, from the history of observations."""
    spec = env.action_spec_unbatched
    size = 2 * spec.shape[-1]
    head = MLP(in_features=HIDDEN, out_features=size, num_cells=[HIDDEN])
    net = TensorDictSequential(
        dense(["obs"], env.observation_spec["obs"].shape[-1], "features"),
        memory(core, in_key="features", out_key="memory"),
        TensorDictModule(
            torch.nn.Sequential(head, NormalParamExtractor()),
            in_keys=["memory"],
            out_keys=["loc", "scale"],
        ),
    )
    return ProbabilisticActor(
        net,
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high},
    )


def q_network(core: str, env: TorchRLEnv) -> TensorDictSequential:
    """The value of an action from the history of observations, with its own memory."""
    size = HIDDEN + env.action_spec_unbatched.shape[-1]
    value = MLP(in_features=size, out_features=1, num_cells=[HIDDEN])
    return TensorDictSequential(
        dense(["obs"], env.observation_spec["obs"].shape[-1], "q_features"),
        memory(core, in_key="q_features", out_key="q_memory"),
        ValueOperator(value, in_keys=["q_memory", "action"], out_keys=["state_action_value"]),
    )


def train(core: str, steps: int, seed: int = 0, every: int = 5) -> Curves:
    """Recurrent SAC with torchrl on a pendulum without its velocity."""
    torch.manual_seed(seed)
    # A fifth of the gravity: the torque suffices to lift the pendulum, but its speed is hidden.
    options = {"id": "Pendulum-v1", "kwargs": {"g": 2.0}, "max_episode_steps": 100}
    base = TorchRLEnv("masked", num_envs=NUM_ENVS, **options)
    # Two critics: given a single one, torchrl would redraw the weights of both.
    actor, critics = actor_network(core, base), [q_network(core, base) for _ in range(2)]
    primers = [get_primers_from_module(each) for each in (actor, critics[0])]
    env = TransformedEnv(base, Compose(InitTracker(), RewardSum(), *primers))
    env.set_seed(seed)
    batch = NUM_ENVS * ROW
    frames = {"frames_per_batch": batch, "total_frames": round_to_batches(steps, batch)}
    collector = Collector(env, actor, **frames)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(4000, ndim=2),
        sampler=SliceSampler(num_slices=SLICES, traj_key=("collector", "traj_ids")),
        batch_size=SLICES * LENGTH,
    )
    loss_module = SACLoss(
        actor,
        critics,
        num_qvalue_nets=2,
        deactivate_vmap=True,
        alpha_init=0.03,
        target_entropy=-2.0,
    )
    loss_module.make_value_estimator(gamma=0.8)
    target = SoftUpdate(loss_module, tau=0.1)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=5e-3)
    curves = Curves(every)
    for data in collector:
        data["next", "reward"] *= 0.3
        buffer.extend(data.exclude("features", "memory", "loc", "scale"))
        losses = []
        for _ in range(10):
            with set_recurrent_mode(True):
                loss = loss_module(buffer.sample().reshape(SLICES, LENGTH))
            optimizer.zero_grad()
            (loss["loss_qvalue"] + loss["loss_actor"] + loss["loss_alpha"]).backward()
            torch.nn.utils.clip_grad_norm_(loss_module.parameters(), 10.0)
            optimizer.step()
            target.step()
            losses.append(loss["loss_qvalue"].item())
        curves.add(data, losses)
    collector.shutdown()
    return curves


if __name__ == "__main__":
    run(train, steps=40_000)
