#!/bin/bash
# package.sh COMMAND PACKAGE [COMMAND PACKAGE...]: makes sure that each COMMAND exists, from the Debian PACKAGE after it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

missing=()
while [ $# -gt 0 ]; do
  have "$1" || missing+=("$2")
  shift 2
done
[ ${#missing[@]} -gt 0 ] || exit 0
can_install || fail "missing: ${missing[*]}" "as root: apt-get install ${missing[*]}"
apt_install "${missing[@]}"
