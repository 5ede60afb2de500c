"""A healthy host before and after each test, traffic, and releases to deploy."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from faulty import Traffic
from probe import pytest_runtest_makereport, ready, wait_until

__all__ = ["pytest_runtest_makereport"]

APP = Path(__file__).resolve().parents[2] / "app"


@pytest.fixture(autouse=True)
def healthy(host: Host) -> Iterator[None]:
    """Each test starts on a host that works, and leaves one."""
    wait_until(lambda: ready(host), "ready before the test", 60)
    yield
    host.run("systemctl start 'messaging-worker@*'")
    wait_until(lambda: ready(host), "ready after the test", 60)


@pytest.fixture
def traffic(host: Host) -> Callable[[], Traffic]:
    """`with traffic() as requests: ...; requests.stop()`: five mails a second, and no more than the mailbox holds."""
    return lambda: Traffic(host, 900, 5)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], str]:
    """`source(name, module, lines)`: the directory of a copy of the application, with these lines at a module's end."""

    def copy(name: str, module: str, lines: str) -> str:
        directory = tmp_path_factory.getbasetemp() / name
        if not directory.exists():
            for part in ("pyproject.toml", "requirements.txt"):
                directory.mkdir(exist_ok=True)
                shutil.copy(APP / part, directory)
            shutil.copytree(APP / "src", directory / "src")
            with (directory / "src/messaging" / module).open("a", encoding="utf-8") as stream:
                stream.write(lines)
        return str(directory)

    return copy
