#!/bin/bash
# hosts.sh VERB INVENTORY [OPTION...]: playbook.yml (deploy) or one of playbooks/, on the hosts of an inventory. Where none is
# named: on the sandbox if it is there, otherwise on inventory.ini.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

verb=$1 inventory=$2
shift 2
playbook=playbooks/$verb.yml
[ "$verb" != deploy ] || playbook=playbook.yml

sandbox_runs() { [ "$(docker inspect --type container --format '{{ .State.Running }}' messaging-sandbox 2>/dev/null)" = true ]; }

# Molecule's own inventory is in a place of its own making; the groups are all that is needed.
sandbox_inventory() {
  sed -n 's/^ *groups: \[\(.*\)\]$/\1/p' molecule/sandbox/molecule.yml | tr -d ' ' | tr ',' '\n' |
    sed 's/.*/[&]\nmessaging-sandbox ansible_connection=community.docker.docker/'
}

# Ansible takes an inventory that is not there for an empty one, and having no hosts for success
need_hosts() {
  local listed plays=$playbook
  [[ $inventory == *,* ]] || [ -e "$inventory" ] || fail "there is no inventory $inventory" "name one that is there: INVENTORY=inventory.ini"
  # These two are about all hosts; start.yml names the groups
  [[ $verb != deploy && $verb != rotate_secrets ]] || plays=playbooks/start.yml
  # A dynamic one that could not be read would count as empty, too
  listed=$(ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED=true ansible-playbook --inventory "$inventory" "$plays" --list-hosts 2>&1) || fail "$inventory cannot be read: $listed" "correct it"
  grep -q 'hosts ([1-9]' <<<"$listed" ||
    fail "$inventory has no host in $(sed -n 's/^  hosts: //p' "$plays" | tr : '\n' | sort -u | paste -s -d ' ')" "put one there, as in inventory.ini"
}

# What cannot be taken back is for hosts that somebody has named
if [[ -z $inventory && $verb =~ ^(restore|remove)$ ]]; then
  fail "$verb: it is not said on which hosts" "name them: make $verb INVENTORY=inventory.ini"
fi

# Without Ansible, since one container is asked.
if [ "$verb" = url ] && [ -z "$inventory" ] && sandbox_runs; then exec mk/sandbox.sh url; fi

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
where="the hosts of $inventory"
if [ -z "$inventory" ] && sandbox_runs; then
  inventory=$temporary/inventory.ini where="the sandbox"
  sandbox_inventory >"$inventory"
elif [ -z "$inventory" ]; then
  inventory=inventory.ini where="the hosts of inventory.ini (there is no sandbox)"
fi
[ "$where" = "the sandbox" ] || need_hosts

# Its secrets are where only molecule knows them, and it is disposable
if [[ $where = "the sandbox" && $verb = backup ]]; then
  fail "$verb is for your own hosts, and the sandbox runs" "name them: INVENTORY=inventory.ini; the sandbox goes with make down"
fi
say "$verb: $where" >&2
# Only molecule knows where the secrets of the sandbox are
if [ "$verb" = rotate_secrets ] && [ "$where" = "the sandbox" ]; then
  MOLECULE_COMMAND_BORDERS=false molecule side-effect --scenario-name sandbox
  exit
fi
# What is asked for goes to stdout, alone, for $(make url); all other words to stderr
case $verb in
url | api_key)
  status=0
  # Unsafe: braces in a name are no template
  answer_file=$temporary/answer python3 -c 'if True:
    import json, os
    print(json.dumps({name: {"__ansible_unsafe": text} for name, text in os.environ.items() if name.startswith(("key_", "answer_file"))}))' >"$temporary/vars.json"
  ansible-playbook --inventory "$inventory" "$playbook" --extra-vars "@$temporary/vars.json" "$@" >&2 || status=$?
  [ ! -e "$temporary/answer" ] || cat "$temporary/answer"
  exit "$status"
  ;;
# The screen alone; what Ansible says only where there is none
status)
  status=0
  ansible-playbook --inventory "$inventory" "$playbook" --extra-vars "answer_file=$temporary/answer" "$@" >"$temporary/log" 2>&1 || status=$?
  if [ ! -e "$temporary/answer" ]; then
    cat "$temporary/log" >&2
    exit 2
  fi
  cat "$temporary/answer"
  [ "$status" -eq 0 ] || exit 1
  ;;
restore)
  python3 -c 'if True:
    import json, os
    print(json.dumps({"restore_from": {"__ansible_unsafe": os.environ.get("restore_from", "")}}))' >"$temporary/vars.json"
  ansible-playbook --inventory "$inventory" "$playbook" --extra-vars "@$temporary/vars.json" "$@"
  ;;
*) ansible-playbook --inventory "$inventory" "$playbook" "$@" ;;
esac
