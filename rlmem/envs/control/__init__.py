"""Control tasks on tensors; `CONTROLS` maps names to tasks."""

from rlmem.envs.control.acrobot import Acrobot
from rlmem.envs.control.ball_balance import BallBalance
from rlmem.envs.control.base import Control
from rlmem.envs.control.cartpole import CartPole
from rlmem.envs.control.mountain_car import MountainCar
from rlmem.envs.control.pendulum import Pendulum
from rlmem.envs.control.reacher import Reacher
from rlmem.envs.control.swing_up import SwingUp

CONTROLS: dict[str, Control] = {
    "acrobot": Acrobot(),
    "ball-balance": BallBalance(),
    "cartpole": CartPole(),
    "mountain-car": MountainCar(),
    "pendulum": Pendulum(),
    "reacher": Reacher(),
    "swing-up": SwingUp(),
}

__all__ = ["CONTROLS", "Control"]
