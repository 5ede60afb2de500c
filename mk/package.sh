#!/bin/bash
# package.sh COMMAND PACKAGE: makes sure that COMMAND exists, from the Debian PACKAGE.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

have "$1" && exit 0
can_install || fail "$1 is missing" "as root: apt-get install $2"
apt_install "$2"
