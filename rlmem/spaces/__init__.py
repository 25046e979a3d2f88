"""Spaces: values of discrete entries, masks of legal actions, numbers of known scale."""
