#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the end-to-end tests on a real cluster and leaves the machine as it was:
# a local cluster that was not up before is removed again. Arguments go to the
# tests, for example -ginkgo.focus=drain.
#   FINDEP_E2E_LABELS  which specs, as a label filter of ginkgo; default !long
#   FINDEP_E2E_KILL    kill the operator at random throughout: a seed, or random
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

hack/prerequisites.sh
keep=yes
own=no
[ -n "${KUBECONFIG:-}" ] || own=yes
if [ -z "${KUBECONFIG:-}" ] && ! localcluster status --name "${FINDEP_CLUSTER:-findep}" >/dev/null 2>&1; then keep=no; fi
[ "${FINDEP_KEEP_CLUSTER:-}" = 1 ] && keep=yes
trap '[ $keep = yes ] || hack/stack.sh down' EXIT
hack/stack.sh up
# shellcheck source=/dev/null
. build/stack.env

# The commit of the manager that the chart of version 0.1.0 in test/testdata/charts
# installed: upgrades are tested from it. It is built from the history; a copy of
# the project without that tests the old chart with the present manager instead.
previous=bd6a7eb07faa9b30596fdf6db852c21c9051e4dd
previous_manager() {
  local program=$FINDEP_CACHE/previous/$previous/manager source
  if [ ! -x "$program" ]; then
    step "Building the manager of the version before"
    source=$(mktemp -d)
    git archive "$previous" | tar -x -C "$source"
    (cd "$source" && CGO_ENABLED=0 go build -ldflags "-s -w -X main.version=0.1.0" -o "$program" ./cmd/manager)
    rm -rf "$source"
  fi
  localcluster load-image --cluster "${FINDEP_CLUSTER:-findep}" --name localhost/findep/manager:0.1.0 \
    --binary "$program=/manager" --entrypoint /manager
  export FINDEP_PREVIOUS_MANAGER_TAG=0.1.0
}
if [ $own = yes ] && git cat-file -e "$previous^{commit}" 2>/dev/null; then previous_manager; fi

# shellcheck disable=SC2086 # TEST_FLAGS are several words.
go test ./test/e2e/... -count=1 -timeout 40m -v ${TEST_FLAGS:-} -ginkgo.label-filter="${FINDEP_E2E_LABELS-!long}" "$@"
