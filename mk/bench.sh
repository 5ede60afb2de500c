#!/bin/bash
# bench.sh ROUNDS SECONDS ONLY [OPTION...]: the benchmark of bench/README.md, on a host that is there for it alone. What is empty
# is as by default; further options are those of bench/measure.py. KEEP=1 leaves the host.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

name=messaging-bench
results=$root/bench/results
rounds=${1:-5} length=${2:-10} only=${3:-}
shift 3
[[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "ROUNDS is $rounds" "give a number from 1 on"
[[ $length =~ ^[1-9][0-9]*$ ]] || fail "SECONDS is $length" "give a number from 1 on"
options=(--rounds "$rounds" --seconds "$length" "$@")

# converge is measured here, and the rest on the host
converge_rounds=$rounds
measured=${only//converge/}
if [ -n "$only" ]; then
  [[ ,$only, == *,converge,* ]] || converge_rounds=0
  options+=(--only "$(tr -s , <<<"$measured" | sed 's/^,//; s/,$//')")
fi

# In a place that we know, for what runs without molecule
export MOLECULE_EPHEMERAL_DIRECTORY=$root/.cache/bench MOLECULE_COMMAND_BORDERS=false
inventory=$MOLECULE_EPHEMERAL_DIRECTORY/inventory

destroy() {
  if [ -n "${KEEP:-}" ]; then
    say "the host $name stays; docker rm --force $name removes it"
    return
  fi
  molecule destroy --scenario-name bench >/dev/null 2>&1 || say "the host could not be removed: docker rm --force $name"
}

on_host() { docker exec --env PYTHONDONTWRITEBYTECODE=1 "$name" "$@"; }

rm -rf "$results"
mkdir -p "$results"
molecule destroy --scenario-name bench >/dev/null 2>&1 || true
trap destroy EXIT
say "a bare host"
molecule create --scenario-name bench

say "the playbook on it"
python bench/converge.py "$inventory" "$results/converge.json" "$converge_rounds"

if [[ -z $only || $measured =~ [a-z] ]]; then
  say "the baseline beside it"
  ansible-playbook --inventory "$inventory" bench/prepare.yml
  say "measuring; results so far are in $results/measure.json in the end, and after a failure"
  status=0
  on_host /opt/messaging-system/current/venv/bin/python /opt/bench/measure.py --output /opt/bench/measure.json "${options[@]}" || status=$?
  on_host cat /opt/bench/measure.json >"$results/measure.json" || rm "$results/measure.json"
  [ $status -eq 0 ] || fail "the benchmark ended early" "see above; what it had measured is in $results/measure.json"
fi

python bench/report.py "$results"
say "results.json, table.md and picture.svg are in $results"
