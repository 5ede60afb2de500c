#!/bin/bash
# test.sh STEP...: runs the steps in turn, stops at the first that fails, and ends with what was tested.
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

started=$SECONDS
times=()
status=0
for step in "$@"; do
  say "$step"
  begin=$SECONDS
  # A subshell with its own errexit: `if run_step` would switch it off.
  set +e
  (set -e; run_step "$step")
  status=$?
  set -e
  times+=("$step $((SECONDS - begin)) s")
  [ $status -eq 0 ] || break
done

echo
printf '  %s\n' "${times[@]}"
python3 mk/summary.py "$results" $((SECONDS - started))
[ $status -eq 0 ] || fail "$step" "see above; again: make $step"
