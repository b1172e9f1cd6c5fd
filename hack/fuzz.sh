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
while IFS=: read -r file name; do
  package=./$(dirname "$file")
  step "$package $name"
  go test -tags findep_native "$package" -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZ_TIME:-10s}" | tail -2
  passed=$((passed + 1))
done < <(git ls-files '*_test.go' | grep -E "$pattern" | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/func //')
echo "$passed passed, 0 failed"
