from collections.abc import Iterator

import pytest

from account import Account, stand_in


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with stand_in(tmp_path_factory.mktemp("aws")) as account:
        yield account
