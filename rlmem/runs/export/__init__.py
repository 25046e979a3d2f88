"""One step of an agent as a file for other programs: ONNX, or a program of `torch.export`."""

from rlmem.runs.export.formats import export

__all__ = ["export"]
