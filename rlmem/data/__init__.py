"""Experience: rollouts, returns, replay, datasets and recording."""
