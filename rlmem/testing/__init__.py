"""Tests for your own cores: `check_core(MyCore)` checks the laws that all cores of rlmem obey."""

from rlmem.testing.check import BrokenLaws, Outcome, Report, check_core, laws

__all__ = ["BrokenLaws", "Outcome", "Report", "check_core", "laws"]
