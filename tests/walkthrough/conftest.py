"""What a host has to say when a test on it fails."""

from probe import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
