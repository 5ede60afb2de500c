"""A failed test shows the journal of its host."""

from probe import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
