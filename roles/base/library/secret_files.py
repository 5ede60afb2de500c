#!/usr/bin/python
"""Ansible module: the passwords that the controller makes, one file each, and the change from one set to another."""

import os
import secrets
import shutil
import string
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: secret_files
short_description: Files with random passwords on the controller
description:
  - Each file is 0600 in a directory 0700, and holds letters and digits only. A file that is there is never changed,
    except by C(promoted). No value is in the result.
  - A change has two steps, and each can be repeated. C(next) makes a whole new set in C(.next) below the directory;
    it is there completely or not at all. C(promoted) puts it in place of the old one, once every host has it.
  - Supports check mode.
options:
  directory: {description: Where the files are., type: path, required: true}
  names: {description: Names of the files., type: list, elements: str, required: true}
  state:
    description: C(present), C(next) or C(promoted).
    type: str
    choices: [present, next, promoted]
    default: present
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Make the secrets that are missing
  secret_files:
    directory: secrets/inventory
    names: [redis_password, operator_key]
"""

RETURN = r"""
changed_names:
  description: Names of the files that changed, or would change in check mode.
  type: list
  elements: str
  returned: always
"""

NEXT = ".next"
LENGTH = 40
LETTERS = string.ascii_letters + string.digits


def write(path, content):
    """The file is there with all of its content, or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def make(directory, names):
    for name in names:
        write(os.path.join(directory, name), "".join(secrets.choice(LETTERS) for _ in range(LENGTH)))


def missing(directory, names):
    return [name for name in names if not os.path.exists(os.path.join(directory, name))]


def make_set(directory, names):
    """A set gets its name when it is complete."""
    temporary = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(directory))
    try:
        make(temporary, names)
        os.rename(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary)
        raise


def promote(directory, names):
    """Copied and not moved: the new set stays complete until the old one is gone."""
    for name in names:
        with open(os.path.join(directory, NEXT, name)) as stream:
            write(os.path.join(directory, name), stream.read())
    shutil.rmtree(os.path.join(directory, NEXT))


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "next", "promoted"], "default": "present"},
        },
        supports_check_mode=True,
    )
    directory, names, state = (module.params[key] for key in ("directory", "names", "state"))
    new = os.path.join(directory, NEXT)
    try:
        if state == "promoted":
            changed = names if os.path.isdir(new) else []
        else:
            changed = missing(new if state == "next" else directory, names)
        if changed and not module.check_mode:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            if state == "promoted":
                promote(directory, changed)
            elif state == "next" and not os.path.isdir(new):
                make_set(new, changed)
            else:
                make(new if state == "next" else directory, changed)
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or directory, error.strerror or error))
    module.exit_json(changed=bool(changed), changed_names=changed)


if __name__ == "__main__":
    main()
