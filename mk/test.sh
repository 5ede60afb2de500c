#!/bin/bash
# test.sh STEP... [+ STEP...]: runs the steps in turn, stops at the first that fails, and ends with what was tested. What comes
# after a + runs beside the others, and is shown when they are done: whole hosts mostly wait.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

results=$root/.test-results
rm -rf "$results"
mkdir -p "$results"

# Wrapped and framed output is hard to search.
export MOLECULE_COMMAND_BORDERS=false

run_step() {
  case $1 in
  lint) mk/lint.sh ;;
  unit) pytest --quiet --junit-xml="$results/unit.xml" ;;
  # `--destroy always` is the default: a failed run leaves no container behind.
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
    echo "$step $((SECONDS - begin)) s" >>"$results/times"
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
[ ! -e "$results/failed" ] || fail "$(paste -sd ' ' "$results/failed")" "see above; again: make <step>"
