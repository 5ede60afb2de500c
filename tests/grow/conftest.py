"""Evidence when a test fails: what the hosts have to say."""

from collections.abc import Generator
from typing import Any

import pytest

from system import evidence


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add the journals of the hosts to the report of a test that failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += evidence(f"messaging-grow{number}" for number in range(1, 6))
