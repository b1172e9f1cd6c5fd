#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copies what controller-gen made into the chart: CRDs, and the rules of every
# role, which the chart's templates read from there. Nothing in the copies is
# edited by hand; "make verify" runs this and wants a clean tree afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

files=charts/findep-operator/files
mkdir -p "$files/crds"
shopt -s nullglob
crds=(config/crd/bases/*.yaml)
[ ${#crds[@]} -gt 0 ] || { echo "config/crd/bases holds no CRD; run hack/generate.sh first" >&2; exit 1; }
rm -f "$files"/crds/*.yaml
cp "${crds[@]}" "$files/crds/"
cp config/webhook/manifests.yaml "$files/webhooks.yaml"
{
  cat config/rbac/role.yaml
  for extra in leader_election webhook editor viewer; do
    echo ---
    cat "config/rbac/${extra}_role.yaml"
  done
} >"$files/role.yaml"
