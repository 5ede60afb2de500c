from pathlib import Path

import pytest

from web_client import Web


@pytest.fixture
def web(tmp_path: Path) -> Web:
    log = tmp_path / "times.log"
    log.touch()
    return Web(log)
