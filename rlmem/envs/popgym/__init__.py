"""The tasks of POPGym (Morad et al. 2023, arXiv 2303.01859) on tensors, in three difficulties."""
