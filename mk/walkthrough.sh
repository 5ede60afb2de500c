#!/bin/bash
# walkthrough.sh: records the walk-through on a sandbox that is there for it alone, into .walkthrough/. KEEP=1 leaves the host.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

results=$root/.walkthrough
# In a place that we know: what is shown must not have the secrets in it
export MOLECULE_EPHEMERAL_DIRECTORY=$root/.cache/walkthrough MOLECULE_COMMAND_BORDERS=false PYTHONDONTWRITEBYTECODE=1
export SANDBOX_NAME=walkthrough
# The sandbox of the user may have its own
SANDBOX_PORT=$(python3 -c 'import socket; free = socket.create_server(("127.0.0.1", 0)); print(free.getsockname()[1])')
export SANDBOX_PORT

destroy() {
  if [ -n "${KEEP:-}" ]; then
    say "the host messaging-walkthrough stays; SANDBOX_NAME=walkthrough make down removes it"
    return
  fi
  mk/sandbox.sh down
}

mkdir -p "$results"
mk/sandbox.sh down
trap destroy EXIT
say "recording what happens on a fresh host (about six minutes)"
python tests/walkthrough/record.py "$results"
