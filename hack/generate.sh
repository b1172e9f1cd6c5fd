#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Regenerates everything that is generated: deep copies, apply configurations,
# CRDs and RBAC from the API's and controllers' comments, the chart's copies of
# them, the reference pages, and the protocol buffers.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

use_tools controller-gen crd-ref-docs
gen=controller-gen
header='headerFile="hack/boilerplate.go.txt"'
"$gen" object:"$header" applyconfiguration:"$header" paths=./api/...
"$gen" crd:headerFile=hack/boilerplate.yaml.txt paths=./api/... output:crd:artifacts:config=config/crd/bases
"$gen" rbac:roleName=manager-role,headerFile=hack/boilerplate.yaml.txt paths=./controllers/... output:rbac:artifacts:config=config/rbac
hack/sync-chart.sh
crd-ref-docs --source-path=api/v1alpha1 --config=hack/reference/config.yaml --renderer=markdown \
  --output-path=docs/reference/api.md --log-level=WARN
go test ./cmd/findep -run TestReferenceIsCurrent -update >/dev/null
hack/generate-proto.sh
