#!/bin/bash
# test.sh STEP... [+ STEP...]: runs the steps in turn, stops at the first that fails, and ends with what was tested. What comes
# after a + runs beside the others, and is shown when they are done: whole hosts mostly wait.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

results=${TEST_RESULTS:-$root/.test-results}
rm -rf "$results"
mkdir -p "$results"

# Wrapped and framed output is hard to search.
export MOLECULE_COMMAND_BORDERS=false

run_step() {
  case $1 in
  lint) mk/lint.sh ;;
  unit) pytest --quiet --junit-xml="$results/unit.xml" ;;
  # `--destroy always` is the default: a failed run leaves no container behind.
  molecule-ubuntu)
    local status=0
    molecule/shared/image.sh ubuntu24.04 ubuntu26.04 || status=$?
    if [ $status -eq 3 ]; then
      echo "$1: no image" >>"$results/not-run"
      say "not run: no image"
      return
    fi
    [ $status -eq 0 ] || return $status
    molecule test --scenario-name ubuntu
    ;;
  molecule-*) molecule test --scenario-name "${1#molecule-}" ;;
  *) fail "no such step: $1" "make lists the verbs" ;;
  esac
}

# run_row STEP...
run_row() {
  local step begin status
  for step in "$@"; do
    say "$step"
    begin=$SECONDS
    # A subshell with its own errexit: `if run_step` would switch it off.
    set +e
    (set -e; run_step "$step")
    status=$?
    set -e
    if grep -qs "^$step:" "$results/not-run"; then echo "$step: not run"; else echo "$step $((SECONDS - begin)) s"; fi >>"$results/times"
    [ $status -eq 0 ] || { echo "$step" >>"$results/failed"; return 0; }
  done
}

started=$SECONDS
row=() first=()
for step in "$@"; do
  if [ "$step" = + ]; then first=("${row[@]}") row=(); else row+=("$step"); fi
done
[ ${#first[@]} -gt 0 ] || { first=("${row[@]}") row=(); }
run_row "${row[@]}" >"$results/beside.log" 2>&1 &
run_row "${first[@]}"
wait
cat "$results/beside.log"

echo
sed 's/^/  /' "$results/times"
python3 mk/summary.py "$results" $((SECONDS - started))
# A verb that did nothing has not passed
[ ! -e "$results/not-run" ] || [ "$(wc -l <"$results/not-run")" -lt "$(wc -l <"$results/times")" ] ||
  fail "nothing was run: $(paste -sd ' ' "$results/not-run")" "a container registry with ubuntu:24.04 has to be in reach"
[ ! -e "$results/failed" ] || fail "$(paste -sd ' ' "$results/failed")" "see above; again: make <step>"
