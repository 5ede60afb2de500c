# What we use of a package that has no types of its own.
from typing import Any

settings: dict[str, Any]
