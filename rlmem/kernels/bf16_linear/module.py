"""`torch.nn.Linear` with the operator of this folder."""

from __future__ import annotations

from torch import Tensor, nn

from rlmem.kernels.bf16_linear.ops import linear


class Linear(nn.Linear):
    """`torch.nn.Linear`; under autocast to bfloat16 on the CPU it keeps float32 tensors.

    There it is faster than torch's, which converts tensors in separate passes over memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
