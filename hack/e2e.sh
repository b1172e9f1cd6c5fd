#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the end-to-end tests on a real cluster and leaves the machine as it was:
# a local cluster that was not up before is removed again.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

hack/prerequisites.sh
keep=yes
if [ -z "${KUBECONFIG:-}" ] && ! localcluster status --name "${FINDEP_CLUSTER:-findep}" >/dev/null 2>&1; then keep=no; fi
[ "${FINDEP_KEEP_CLUSTER:-}" = 1 ] && keep=yes
trap '[ $keep = yes ] || hack/stack.sh down' EXIT
hack/stack.sh up
# shellcheck source=/dev/null
. build/stack.env
go test ./test/e2e/... -count=1 -timeout 25m -v ${TEST_FLAGS:-} "$@"
