#!/bin/bash
# hosts.sh VERB INVENTORY [OPTION...]: one of playbooks/, on the hosts of an inventory. Where none is named: on the sandbox
# if it is there, otherwise on inventory.ini.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

verb=$1 inventory=$2
shift 2

sandbox_runs() { [ "$(docker inspect --type container --format '{{ .State.Running }}' messaging-sandbox 2>/dev/null)" = true ]; }

# Molecule's own inventory is in a place of its own making; the groups are all that is needed.
sandbox_inventory() {
  sed -n 's/^ *groups: \[\(.*\)\]$/\1/p' molecule/sandbox/molecule.yml | tr -d ' ' | tr ',' '\n' |
    sed 's/.*/[&]\nmessaging-sandbox ansible_connection=community.docker.docker/'
}

# Without Ansible, since one container is asked.
if [ "$verb" = url ] && [ -z "$inventory" ] && sandbox_runs; then exec mk/sandbox.sh url; fi

where="the hosts of $inventory"
if [ -z "$inventory" ] && sandbox_runs; then
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  inventory=$temporary/inventory.ini where="the sandbox"
  sandbox_inventory >"$inventory"
elif [ -z "$inventory" ]; then
  inventory=inventory.ini where="the hosts of inventory.ini (there is no sandbox)"
fi

say "$verb: $where"
# Only molecule knows where the secrets of the sandbox are
if [ "$verb" = rotate_secrets ] && [ "$where" = "the sandbox" ]; then
  MOLECULE_COMMAND_BORDERS=false molecule side-effect --scenario-name sandbox
  exit
fi
ansible-playbook --inventory "$inventory" "playbooks/$verb.yml" "$@"
