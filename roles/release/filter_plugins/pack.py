"""The name of a release, told by files/pack.py."""

import importlib.util
from pathlib import Path

PACK = Path(__file__).resolve().parents[1] / "files" / "pack.py"


def release_name(app):
    """Version and digest of the application in this directory."""
    spec = importlib.util.spec_from_file_location("messaging_pack", PACK)
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return pack.name(Path(str(app)))


class FilterModule:
    def filters(self):
        return {"release_name": release_name}
