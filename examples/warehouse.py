"""A robot in a warehouse fetches the crate of a colour that it was told once.

    python warehouse.py                                  # trains from Python, and writes ONNX
    rlmem train env=./warehouse.py:Warehouse core=gru    # trains from a shell

Observations are a Dict of a camera image, numbers of very different sizes, a colour and a mask of
the actions; actions are two numbers. The colour is told at the first step only, and the camera
shows only the crate in front of the robot, so the robot needs memory.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
LEFT, STAY, RIGHT = range(3)
NOTHING = len(COLOURS)  # the order at all steps but the first


class Warehouse(gym.Env):
    """Three crates stand along an aisle of five places; gripping the right one gives 1, else -1."""

    observation_space = Dict(
        camera=Box(0, 255, (20, 20, 3), np.uint8),
        position=Box(-np.inf, np.inf, (2,), np.float32),  # in mm: along the aisle, and height
        order=Discrete(NOTHING + 1),
        action_mask=Box(0, 1, (5,), np.int8),  # left, stay, right; hold still, grip
    )
    action_space = MultiDiscrete([3, 2])

    def __init__(self, aisle=5, time_limit=16):
        self.aisle, self.time_limit = aisle, time_limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.crates = self.np_random.permutation(len(COLOURS))
        self.order = int(self.np_random.integers(len(COLOURS)))
        self.place, self.time = int(self.np_random.integers(self.aisle)), 0
        return self._observation(), {}

    def step(self, action):
        move, grip = int(action[0]), bool(action[1])
        self.time += 1
        crate = self._crate()
        self.place = int(np.clip(self.place + move - STAY, 0, self.aisle - 1))
        reward = 1.0 if crate == self.order else -1.0
        truncated = self.time >= self.time_limit
        return self._observation(), reward if grip else 0.0, grip, truncated and not grip, {}

    def _crate(self):
        """The colour of the crate in front of the robot, or None."""
        return None if self.place % 2 else int(self.crates[self.place // 2])

    def _observation(self):
        camera = self.np_random.integers(0, 30, (20, 20, 3)).astype(np.uint8)
        if (crate := self._crate()) is not None:
            camera[6:14, 6:14] += COLOURS[crate]
        moves = [self.place > 0, True, self.place < self.aisle - 1]
        return {
            "camera": camera,
            "position": np.array([1000.0 * self.place, 2500.0], np.float32),
            "order": self.order if self.time == 0 else NOTHING,
            "action_mask": np.array([*moves, True, crate is not None], np.int8),
        }


if __name__ == "__main__":
    import rlmem

    options = {"num_envs": 32, "hidden_size": 64, "total_steps": 60_000}
    result = rlmem.train(Warehouse, core="gru", algo="ppo", run_dir="runs/warehouse", **options)
    agent = rlmem.load(result.run_dir)
    print(rlmem.evaluate(agent, Warehouse)["return_mean"])
    agent.export("warehouse.onnx")
