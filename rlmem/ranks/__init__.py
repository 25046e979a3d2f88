"""Ranks: processes that train one agent together, each with its part of the environments."""
