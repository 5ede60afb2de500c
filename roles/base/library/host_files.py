#!/usr/bin/python
"""Ansible module: many files, directories and links of a host in one call."""

import grp
import os
import pwd
import shlex
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_files
short_description: Files, directories and links of a host, all in one call
description:
  - Does what C(template), C(copy) and C(file) do, for a whole list at once. Those need one or two module runs a file;
    a host of this project has about thirty files, and a run that changes nothing would spend its time there.
  - Files are written beside their place with their final owner and mode and then renamed, so a reader sees the old
    or the new file and a secret is never readable by others, not for a moment.
  - What is in O(secrets) is never shown, neither in the host's journal nor with C(--diff) or C(-vvv).
  - Supports check mode and diff.
options:
  files:
    description: What there shall be, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Absolute path., type: path, required: true}
      state:
        description: >-
          C(file) has O(files[].content); C(present) is a file whose content is not ours, made empty when it is missing.
        type: str
        choices: [file, present, directory, link, absent]
        default: file
      content: {description: The text of a C(file); or it is in O(secrets)., type: str}
      target: {description: Where a C(link) leads., type: str}
      owner: {description: User., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: "Octal; 0644 for files, 0755 for directories when left out.", type: str}
      previous: {description: Where a C(file) that changes leaves what it held before., type: path}
      validate:
        description: Command that must succeed on a copy of the new file before it goes live; C(%s) is its path.
        type: str
  secrets:
    description: The text of those files that nobody shall see, by path.
    type: dict
    default: {}
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Write the settings
  host_files:
    files:
      - {path: /etc/example, state: directory, group: example, mode: "0750"}
      - path: /etc/example/example.conf
        content: "{{ lookup('ansible.builtin.template', 'etc/example/example.conf.j2') }}"
      - {path: /etc/example/password, group: example, mode: "0640"}
    secrets:
      /etc/example/password: "{{ example_password }}"
"""

RETURN = r"""
changed_paths:
  description: The paths that changed, or would change in check mode.
  type: list
  elements: str
  returned: always
"""


class QuietModule(AnsibleModule):
    """A module that puts its paths into the host's journal instead of every file in full."""

    def _log_invocation(self):
        self.log("Invoked for " + " ".join(entry["path"] for entry in self.params["files"]))


class Host:
    """Applies one entry after the other, and keeps what changed."""

    def __init__(self, module):
        self.module = module
        self.dry = module.check_mode
        self.changed = []
        self.diffs = []

    def fail(self, message, **details):
        self.module.fail_json(msg=message, changed_paths=self.changed, **hide(self.module), **details)

    def apply(self, entry):
        path, state = entry["path"], entry["state"]
        if not os.path.isabs(path):
            self.fail(f"{path}: not an absolute path")
        try:
            getattr(self, "make_" + state)(path, entry)
        except OSError as error:
            self.fail(f"{path}: {error.strerror or error}")

    def note(self, path, before="", after=""):
        if path not in self.changed:
            self.changed.append(path)
        if self.module._diff and before != after:
            self.diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})

    def make_file(self, path, entry):
        secret = path in self.module.params["secrets"]
        content = self.module.params["secrets"][path] if secret else entry["content"]
        if content is None:
            self.fail(f"{path}: a file needs content")
        new = str(content).encode("utf-8")
        regular = os.path.isfile(path) and not os.path.islink(path)
        old = read(path) if regular else None
        if old == new:
            self.attributes(path, entry, 0o644)
            return
        if entry["validate"]:
            self.check(path, new, entry["validate"])
        if secret:
            self.note(path, "(a secret)\n", "(another secret)\n")
        else:
            self.note(path, text(old), text(new))
        if not self.dry:
            if entry["previous"] and old is not None:
                self.write(entry["previous"], old, entry)
            self.write(path, new, entry)

    def make_present(self, path, entry):
        if os.path.isfile(path):
            self.attributes(path, entry, 0o644)
            return
        self.note(path, "(absent)\n", "(an empty file)\n")
        if not self.dry:
            self.write(path, b"", entry)

    def make_directory(self, path, entry):
        if os.path.isdir(path):
            self.attributes(path, entry, 0o755)
            return
        if os.path.lexists(path):
            self.fail(f"{path}: is there and is not a directory; move it away")
        self.note(path, "(absent)\n", "(a directory)\n")
        if not self.dry:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            os.mkdir(path, 0o700)
            self.attributes(path, entry, 0o755)

    def make_link(self, path, entry):
        target = entry["target"]
        if not target:
            self.fail(f"{path}: a link needs a target")
        old = os.readlink(path) if os.path.islink(path) else None
        if old == target:
            return
        if old is None and os.path.isdir(path):
            self.fail(f"{path}: is a directory and not a link; move it away")
        self.note(path, (old or "(absent)") + "\n", target + "\n")
        if not self.dry:
            temporary = f"{path}.new{os.getpid()}"
            os.symlink(target, temporary)
            os.replace(temporary, path)

    def make_absent(self, path, entry):
        if not os.path.lexists(path):
            return
        self.note(path, "(present)\n", "(absent)\n")
        if self.dry:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def write(self, path, content, entry):
        uid, gid, mode = self.wanted(entry, 0o644)
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                os.fchown(handle, uid, gid)
                os.fchmod(handle, mode)
                stream.flush()
                os.fsync(handle)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def check(self, path, content, command):
        """Run the checker on a copy that only root can read."""
        handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            arguments = [part.replace("%s", temporary) for part in shlex.split(command)]
            if self.dry and not self.module.get_bin_path(arguments[0]):
                return  # the checker would have been installed by now
            code, out, err = self.module.run_command(arguments)
            if code != 0:
                reason = (err or out).strip().replace(temporary, path)
                self.fail(f"{path}: refused by its checker, the old file stays in place:\n{reason}", rc=code)
        finally:
            os.unlink(temporary)

    def wanted(self, entry, default_mode):
        """uid, gid and mode; in check mode None for an account that does not exist yet."""
        ids = []
        for kind, find in (("owner", pwd.getpwnam), ("group", grp.getgrnam)):
            try:
                ids.append(find(entry[kind])[2])
            except KeyError:
                if not self.dry:
                    self.fail("{0}: there is no {1} {2!r}".format(entry["path"], kind, entry[kind]))
                ids.append(None)
        return ids[0], ids[1], int(entry["mode"], 8) if entry["mode"] else default_mode

    def attributes(self, path, entry, default_mode):
        uid, gid, mode = self.wanted(entry, default_mode)
        found = os.stat(path)
        if (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (uid, gid, mode):
            return
        line = "owner {0} group {1} mode {2:04o}\n"
        self.note(path, line.format(found.st_uid, found.st_gid, found.st_mode & 0o7777), line.format(uid, gid, mode))
        if not self.dry:
            os.chown(path, uid, gid)
            os.chmod(path, mode)


def read(path):
    with open(path, "rb") as stream:
        return stream.read()


def text(content):
    return "" if content is None else content.decode("utf-8", "replace")


def hide(module):
    """What Ansible would show of our arguments, without any content."""
    paths = [entry["path"] for entry in module.params["files"]]
    return {"invocation": {"module_args": {"files": paths}}}


def main():
    entry = {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["file", "present", "directory", "link", "absent"], "default": "file"},
        "content": {"type": "str"},
        "target": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str"},
        "previous": {"type": "path"},
        "validate": {"type": "str"},
    }
    module = QuietModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": entry},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # parents of a directory get the host's umask otherwise
    host = Host(module)
    for item in module.params["files"]:
        host.apply(item)
    module.exit_json(changed=bool(host.changed), changed_paths=host.changed, diff=host.diffs, **hide(module))


if __name__ == "__main__":
    main()
