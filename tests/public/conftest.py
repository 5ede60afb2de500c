"""The hosts around the one that is tested."""

import pytest
import testinfra
from testinfra.host import Host

from probe import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def internet() -> Host:
    """Where clients are, and what the host finds in the internet."""
    return testinfra.get_host("docker://messaging-internet")


@pytest.fixture(scope="session")
def edge() -> Host:
    """Where the SSH tunnel ends."""
    return testinfra.get_host("docker://messaging-edge")
