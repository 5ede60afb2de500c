"""Prints what is on a host, as JSON: run there before the first run of the playbook, and after the removal."""

import json
import os
import re
import socket
import stat
import struct
import subprocess
from hashlib import sha256
from pathlib import Path

ROOTS = ("/etc", "/opt", "/root", "/srv", "/usr/local", "/usr/lib/systemd", "/var", "/home", "/run", "/tmp")


def said(*command: str) -> list[str]:
    """The lines that a command prints; none where there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return sorted(" ".join(line.split()) for line in done.stdout.splitlines() if line.strip())


def files() -> dict[str, str]:
    """Kind, owner, mode and content of each file below ROOTS."""
    found = {}
    for root in ROOTS:
        for folder, names, others in os.walk(root):
            for name in names + others:
                path = Path(folder, name)
                try:
                    entry = path.lstat()
                    if stat.S_ISREG(entry.st_mode):
                        content = sha256(path.read_bytes()).hexdigest()[:16]
                    else:
                        content = os.readlink(path) if path.is_symlink() else ""
                except FileNotFoundError:
                    continue
                found[str(path)] = f"{stat.filemode(entry.st_mode)} {entry.st_uid}:{entry.st_gid} {content}"
    return found


# linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h
NETLINK_NETFILTER = 12
ERROR, DONE = 2, 3
GET_TABLE, NEW_TABLE = 10 << 8 | 1, 10 << 8
REQUEST_ALL = 0x301
TABLE_NAME = 1


def tables() -> list[str]:
    """Names of nftables' tables, from the kernel itself: the removal takes `nft` away, too."""
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.settimeout(10)
        kernel.bind((0, 0))
        kernel.send(struct.pack("=LHHLLBBH", 20, GET_TABLE, REQUEST_ALL, 1, 0, 0, 0, 0))
        while True:
            answer = kernel.recv(65536)
            while answer:
                length, kind = struct.unpack_from("=LH", answer)
                message, answer = answer[:length], answer[(length + 3) // 4 * 4 :]
                if kind == DONE:
                    return sorted(found)
                if kind == ERROR:
                    raise OSError(-struct.unpack_from("=l", message, 16)[0], "nftables' tables cannot be listed")
                if kind == NEW_TABLE:
                    found.append(f"{message[16]} {attribute(message[20:], TABLE_NAME)}")


def attribute(attributes: bytes, wanted: int) -> str:
    """The text of one attribute of a netlink message."""
    while attributes:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == wanted:
            return attributes[4:length].rstrip(b"\0").decode()
        attributes = attributes[(length + 3) // 4 * 4 :]
    return ""


def main() -> None:
    """Look at everything."""
    # the process ids in it differ from one look to the next
    sockets = [re.sub(r"pid=\d+,fd=\d+", "", line) for line in said("ss", "-Hltunp")]
    print(
        json.dumps(
            {
                "files": files(),
                "packages": said("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Abbrev}\n"),
                "manual": said("apt-mark", "showmanual"),
                "users": Path("/etc/passwd").read_text().splitlines(),
                "groups": Path("/etc/group").read_text().splitlines(),
                "units": said("systemctl", "list-unit-files", "--plain", "--no-legend"),
                "failed": said("systemctl", "list-units", "--plain", "--no-legend", "--state=failed,not-found"),
                "listening": sockets,
                "tables": tables(),
            }
        )
    )


main()
