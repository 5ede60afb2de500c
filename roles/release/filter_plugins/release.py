"""The name of a release, told by files/pack.py, and where its secrets are."""

import importlib.util
from pathlib import Path

PACK = Path(__file__).resolve().parents[1] / "files" / "pack.py"


def release_name(app):
    """Version and digest of the application in this directory."""
    spec = importlib.util.spec_from_file_location("messaging_pack", PACK)
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return pack.name(Path(str(app)))


def release_secret_link(name, directory):
    """A secret beside the settings of a release, as an entry for host_files."""
    return {"path": f"{directory}/secrets/{name}", "state": "link", "target": f"../../../../secrets/{name}"}


def release_refused(hosts, hostvars):
    """Of the hosts that have tried a release, a line for each that refused it."""
    tried = {host: hostvars[host].get("__release_tried", {}) for host in hosts}
    return [f"{host}: {result['reason']}" for host, result in tried.items() if result.get("accepted") is False]


class FilterModule:
    def filters(self):
        return {
            "release_name": release_name,
            "release_secret_link": release_secret_link,
            "release_refused": release_refused,
        }
