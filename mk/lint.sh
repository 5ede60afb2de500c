#!/bin/bash
# All linters, each to its end, so that one run shows everything.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

failed=()
run() {
  say "$*"
  "$@" || failed+=("$1")
}

mapfile -t scripts < <(git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run)

run ruff check .
run ruff format --check .
run mypy --strict app/src bench tests/walkthrough/record.py
run yamllint --strict .
run shellcheck --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
run ansible-lint --profile production --offline --strict

[ ${#failed[@]} -eq 0 ] || fail "lint: ${failed[*]}" "see above; make format does what can be done by itself"
