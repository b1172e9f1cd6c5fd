#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every fuzz target for a bounded time, one after another.
#   FUZZ_TIME=30s hack/fuzz.sh [PACKAGE-PATTERN]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

pattern=${1:-.}
passed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz PACKAGE NAME: inputs that reach new code are minimised for a number of runs,
# not for up to a minute as by default, which is most of the time there is.
#
# Until Go 1.27 a run may fail just when its time is up, with nothing but "context
# deadline exceeded" (go.dev/issue/75804). A run that found something writes the
# input, so without one that message is no failure.
fuzz() {
  if go test -tags findep_native "$1" -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZ_TIME:-10s}" -fuzzminimizetime 100x >"$log" 2>&1; then
    tail -2 "$log"
    return
  fi
  if grep -q 'Failing input written to' "$log" || ! grep -q '^ *context deadline exceeded$' "$log"; then
    cat "$log"
    return 1
  fi
  echo "time was up (context deadline exceeded), nothing was found"
}

while IFS=: read -r file name; do
  package=./$(dirname "$file")
  step "$package $name"
  fuzz "$package" "$name"
  passed=$((passed + 1))
done < <(git ls-files '*_test.go' | grep -E "$pattern" | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/func //')
echo "$passed passed, 0 failed"
