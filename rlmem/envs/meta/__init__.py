"""Task distributions: a new task in each trial, and tasks that are held out from training."""
