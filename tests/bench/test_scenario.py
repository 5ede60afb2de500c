"""The host of the benchmark: the playbook and the application take what it sets."""

from typing import Any

import pytest

from messaging.settings import rate_limits
from rendering import ROOT, evaluate, load, role_names, shared_variables

BUDGETS = ("budget_client", "budget_recipient", "budget_day")


def settings() -> dict[str, Any]:
    scenario = load(ROOT / "molecule/bench/molecule.yml")
    found = dict(scenario["provisioner"]["inventory"]["group_vars"]["molecule"])
    # files of a run
    return found | {"smtp_password": "secret", "base_ca_certificates": []}


@pytest.mark.parametrize(
    "role", [name for name in role_names() if name not in {"ngrok", "sshtunnel", "monitoring", "aws"}]
)
def test_the_playbook_takes_it(role: str) -> None:
    checks = evaluate(role, f"__{role}_checks", **settings())
    assert checks
    assert [check["fix"] for check in checks if not check["ok"]] == []


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_are_looked_up_as_by_default(name: str) -> None:
    ours, usual = (rate_limits(values[name]) for values in (settings(), shared_variables()))
    assert [limit.get_expiry() for limit in ours] == [limit.get_expiry() for limit in usual]
    assert min(limit.amount for limit in ours) == 100_000
