#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the end-to-end tests of the chart's webhooks.mode=certManager with
# cert-manager's own controllers and definitions, on a real cluster. Building
# them takes some minutes the first time. Arguments go to hack/e2e.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

step "Building cert-manager's controllers"
FINDEP_CERT_MANAGER=$FINDEP_CACHE/tools/certmanager
(cd hack/certmanager && CGO_ENABLED=0 go build -ldflags '-s -w' -o "$FINDEP_CERT_MANAGER" .)
FINDEP_CERT_MANAGER_CRDS=$(cd hack/certmanager && go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)/deploy/crds
export FINDEP_CERT_MANAGER FINDEP_CERT_MANAGER_CRDS
FINDEP_E2E_LABELS=cert-manager exec hack/e2e.sh "$@"
