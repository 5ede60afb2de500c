"""Every variable is documented, in defaults and in the argument specification alike."""

from typing import Any

import pytest

from rendering import ROLES, defaults, load, role_names, shared_variables

TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "path": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
    "raw": object,
}


def _options(role: str) -> dict[str, Any]:
    specification = load(ROLES / role / "meta/argument_specs.yml")
    return dict(specification["argument_specs"]["main"]["options"])


SECRET = ("_password", "_key", "_authtoken", "mongodb_url", "webhook_url")
# The path of a file, and the public half of a pair
NO_SECRET = {"nginx_tls_key", "sshtunnel_host_key"}


def _is_secret(name: str) -> bool:
    # what a key may do is no key
    return name.endswith(SECRET) and not name.startswith("budget_") and name not in NO_SECRET


@pytest.mark.parametrize("role", role_names())
def test_every_default_is_specified(role: str) -> None:
    public = {name for name in defaults(role) if not name.startswith("__")}
    assert public - set(_options(role)) == set(), "in defaults/main.yml, and not in meta/argument_specs.yml"


@pytest.mark.parametrize("role", role_names())
def test_every_option_has_a_value(role: str) -> None:
    known = set(defaults(role)) | set(shared_variables())
    assert set(_options(role)) - known == set(), "in meta/argument_specs.yml, and nowhere set"


@pytest.mark.parametrize("role", role_names())
def test_every_option_is_described_and_typed(role: str) -> None:
    for name, option in _options(role).items():
        assert option.get("description"), f"{name}: no description"
        assert option.get("type") in TYPES, f"{name}: no type"


@pytest.mark.parametrize("role", role_names())
def test_specified_defaults_are_the_defaults(role: str) -> None:
    values = defaults(role)
    for name, option in _options(role).items():
        if name in values:
            assert "default" in option, f"{name}: the specification gives no default"
            assert option["default"] == values[name], name


@pytest.mark.parametrize("role", role_names())
def test_defaults_have_the_specified_type(role: str) -> None:
    for name, value in defaults(role).items():
        templated = isinstance(value, str) and "{{" in value
        if not name.startswith("__") and not templated:
            assert isinstance(value, TYPES[_options(role)[name]["type"]]), name


def test_every_shared_variable_is_specified_by_a_role() -> None:
    specified = {name for role in role_names() for name in _options(role)}
    public = {name for name in shared_variables() if not _is_secret(name)}
    assert public - specified == set()


def test_no_secret_is_a_typed_option() -> None:
    # The result of the validation shows values, so a password in it would end up in the output.
    specified = {name for role in role_names() for name in _options(role)}
    assert {name for name in specified if _is_secret(name)} == set()
