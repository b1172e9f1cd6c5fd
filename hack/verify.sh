#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Phase 1 regenerates, phase 2 only reads; then the tree must be clean,
# untracked files included.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

before=$(git status --porcelain)
step "Regenerating"
hack/generate.sh
go mod tidy

step "Checking formats"
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { echo "gofmt wants to change: $unformatted" >&2; exit 1; }
step "Vetting with and without the native backend"
go vet ./...
[ -f build/native/libfindep_cpu.a ] && go vet -tags findep_native ./runtime/... ./cmd/...
step "Checking who imports whom"
go test ./test/policy
step "Linting"
use_tools golangci-lint
golangci-lint run ./...
step "Looking for changes"
after=$(git status --porcelain)
[ "$before" = "$after" ] || { echo "generated files were out of date; commit these:" >&2; diff <(echo "$before") <(echo "$after") >&2; exit 1; }
step "Verified"
