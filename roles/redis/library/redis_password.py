#!/usr/bin/python
"""Ansible module: another password for Redis, without a restart and without a moment in which nobody gets in."""

import grp
import hashlib
import os
import pwd
import re
import socket
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: redis_password
short_description: The password of Redis, in its file and in the Redis that runs
description:
  - Writes a file that redis.conf includes, and tells a Redis that runs. A user of Redis may have several passwords at
    once, so with O(keep) those that were good before go on being good until a later call without it.
  - Comes by Redis's own socket on the host, which only root and Redis can open.
  - No password is on a command line, in the result or in the journal. What was good before is read from the host.
  - Supports check mode.
options:
  password: {description: The new password., type: str, required: true}
  socket: {description: Path of Redis's socket., type: path, required: true}
  keep: {description: Whether the passwords that were good before go on being good., type: bool, required: true}
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Let the new password in
  redis_password:
    password: "{{ redis_password }}"
    socket: /run/redis/redis-server.sock
    keep: true
"""

RETURN = r"""
keeps_old: {description: Whether another password is good too., type: bool, returned: always}
"""

PATH = "/etc/redis/password.conf"
HEADER = "# Made by the playbook (redis_password); redis.conf includes it\n"
# the default user's line wins over requirepass
USER = "user default on ~* &* +@all"


class RedisError(Exception):
    """Redis refused a command; its own words."""


class Connection:
    """One connection in RESP2. Source: https://redis.io/docs/latest/develop/reference/protocol-spec/"""

    def __init__(self, path):
        self.link = socket.socket(socket.AF_UNIX)
        self.link.settimeout(5)
        self.link.connect(path)
        self.stream = self.link.makefile("rb")

    def ask(self, *words):
        parts = [word.encode() for word in words]
        self.link.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return self.answer()

    def answer(self):
        line = self.stream.readline().rstrip(b"\r\n").decode()
        kind, rest = line[:1], line[1:]
        if kind == "$":
            return None if rest == "-1" else self.stream.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self.answer() for _ in range(int(rest))]
        if kind == "-":
            raise RedisError(rest)
        return rest


def read(path):
    try:
        with open(path) as stream:
            return stream.read()
    except OSError:
        return ""


def digest(password):
    return hashlib.sha256(password.encode()).hexdigest()


def known_before():
    """The passwords in clear, and the digests of all that are good. Earlier releases had one, in redis.conf."""
    text = read(PATH) or read("/etc/redis/redis.conf")
    passwords = re.findall(r"^requirepass (\S+)$", text, re.M)
    digests = re.findall(r" #([0-9a-f]{64})", "".join(re.findall(r"^user default .*$", text, re.M)))
    return passwords, digests or [digest(password) for password in passwords]


def wanted(password, digests):
    """The text of the file, with all digests that are good."""
    lines = HEADER + "requirepass {0}\n".format(password)
    return lines if len(digests) == 1 else lines + " ".join([USER] + ["#" + each for each in digests]) + "\n"


def write(text):
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(PATH))
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            os.fchown(handle, pwd.getpwnam("redis").pw_uid, grp.getgrnam("redis").gr_gid)
            os.fchmod(handle, 0o640)
            stream.flush()
            os.fsync(handle)
        os.replace(temporary, PATH)
    except BaseException:
        os.unlink(temporary)
        raise


def log_in(path, passwords):
    """A connection with the first password that is good, or None while Redis does not run."""
    try:
        connection = Connection(path)
    except OSError:
        return None
    refusal = None
    for password in passwords:
        try:
            connection.ask("AUTH", password)
        except RedisError as error:
            refusal = error
        else:
            return connection
    raise RedisError(
        "{0}: neither the new password nor that of {1} is good; systemctl restart redis-server on the host, "
        "then run again".format(refusal, PATH)
    )


def good_now(connection):
    """Digests of the passwords of the Redis that runs."""
    user = connection.ask("ACL", "GETUSER", "default")
    return user[user.index("passwords") + 1]


def main():
    module = AnsibleModule(
        argument_spec={
            "password": {"type": "str", "required": True, "no_log": True},
            "socket": {"type": "path", "required": True},
            "keep": {"type": "bool", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    password, keep = module.params["password"], module.params["keep"]
    passwords, digests = known_before()
    mine = digest(password)
    good = [mine] + [each for each in digests if keep and each != mine]
    text = wanted(password, good)
    changed = read(PATH) != text
    if changed and not module.check_mode:
        write(text)
    try:
        # the file is first: whatever happens, a restart lets in whom this call lets in
        connection = log_in(module.params["socket"], [password, *passwords])
        live = good_now(connection) if connection else good
        if keep and mine not in live:
            changed = True
            if not module.check_mode:
                connection.ask("ACL", "SETUSER", "default", "#" + mine)
        elif not keep and live != [mine]:
            changed = True
            if not module.check_mode:
                connection.ask("CONFIG", "SET", "requirepass", password)
    except (OSError, RedisError, ValueError) as error:
        module.fail_json(msg="Redis at {0}: {1}".format(module.params["socket"], error))
    # of a run that was cut short only the Redis that runs knows
    others = [each for each in (*good, *live) if each != mine]
    module.exit_json(changed=changed, keeps_old=keep and len(others) > 0)


if __name__ == "__main__":
    main()
