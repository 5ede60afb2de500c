#!/bin/bash
# Compiles both locks: what runs on the hosts, and the controller's environment, which has the same versions of it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

compile() {
  say "$2"
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --upgrade --system-certs "${@:3}" "$1" --output-file "$2"
}

compile app/requirements.in app/requirements.txt
compile requirements.in requirements.txt --constraints app/requirements.txt
