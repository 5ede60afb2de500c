#!/bin/bash
# Lists the verbs of the given Makefiles, grouped.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

printf '\nTwo commands do everything: %smake up%s tries it, %smake test%s proves it.\n' "$bold" "$reset" "$bold" "$reset"
awk -v bold="$bold" -v reset="$reset" '
  BEGIN { FS = ":.*## " }
  /^##@ / { printf "\n%s%s%s\n", bold, substr($0, 5), reset }
  /^[a-z-]+:.*## / { printf "  %-18s%s\n", $1, $2 }
' "$@"
echo
