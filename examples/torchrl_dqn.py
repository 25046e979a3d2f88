"""Recurrent DQN with torchrl on CartPole without velocities.

python examples/torchrl_dqn.py --core ffm
python examples/torchrl_dqn.py --core LSTMModule
"""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, InitTracker, RewardSum, TransformedEnv
from torchrl.modules import MLP, EGreedyModule, QValueModule, set_recurrent_mode
from torchrl.modules.utils import get_primers_from_module
from torchrl.objectives import DQNLoss, SoftUpdate
from torchrl_common import HIDDEN, Curves, dense, memory, round_to_batches, run

from rlmem.torchrl import NextStarts, TorchRLEnv

NUM_ENVS, ROW = 16, 32


def q_network(core: str, env: TorchRLEnv) -> TensorDictSequential:
    """Action values from the history of observations."""
    spec = env.action_spec_unbatched
    head = MLP(in_features=HIDDEN, out_features=spec.n, num_cells=[HIDDEN])
    return TensorDictSequential(
        dense(["obs"], env.observation_spec["obs"].shape[-1], "features"),
        memory(core, in_key="features", out_key="memory"),
        TensorDictModule(head, in_keys=["memory"], out_keys=["action_value"]),
        QValueModule(spec=spec, action_space="categorical"),
    )


def train(core: str, steps: int, seed: int = 0, every: int = 5) -> Curves:
    """Recurrent DQN with torchrl on CartPole without velocities."""
    torch.manual_seed(seed)
    base = TorchRLEnv("masked", num_envs=NUM_ENVS, id="CartPole-v1")
    policy = q_network(core, base)
    transforms = [InitTracker(), RewardSum(), get_primers_from_module(policy)]
    env = TransformedEnv(base, Compose(*transforms))
    env.set_seed(seed)
    explore = EGreedyModule(
        spec=base.action_spec_unbatched,
        eps_init=1.0,
        eps_end=0.05,
        annealing_num_steps=steps // 3,
    )
    collector = Collector(
        env,
        TensorDictSequential(policy, explore),
        frames_per_batch=NUM_ENVS * ROW,
        total_frames=round_to_batches(steps, NUM_ENVS * ROW),
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1000), batch_size=32, transform=NextStarts()
    )
    loss_module = DQNLoss(policy, action_space="categorical", delay_value=True)
    loss_module.make_value_estimator(gamma=0.95)
    target = SoftUpdate(loss_module, tau=0.05)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-3)
    curves = Curves(every)
    for data in collector:
        # The training reward is -1 at a fall; `episode_reward` still counts steps.
        data["next", "reward"] = -data["next", "terminated"].float()
        buffer.extend(data.exclude("features", "memory"))
        explore.step(data.numel())
        losses = []
        for _ in range(6):
            with set_recurrent_mode(True):
                loss = loss_module(buffer.sample())["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(loss_module.parameters(), 10.0)
            optimizer.step()
            target.step()
            losses.append(loss.item())
        curves.add(data, losses)
    collector.shutdown()
    return curves


if __name__ == "__main__":
    run(train, steps=40_000)
