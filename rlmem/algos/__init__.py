"""Algorithms that train a policy, and what they share."""
