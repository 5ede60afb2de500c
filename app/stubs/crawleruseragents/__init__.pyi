from typing import TypedDict

class _Entry(TypedDict):
    pattern: str
    tags: list[str]

CRAWLER_USER_AGENTS_DATA: list[_Entry]
