"""Loggers: callbacks that write a training to TensorBoard, Weights & Biases, MLflow or videos."""
