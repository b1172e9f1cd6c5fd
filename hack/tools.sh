#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the development tools pinned in hack/tools into the cache, each only
# when it is missing or its module file changed.
#   hack/tools.sh [controller-gen|kustomize|helm|golangci-lint ...]   none: all
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

declare -A module=(
  [controller-gen]=hack/tools [kustomize]=hack/tools
  [helm]=hack/tools/helm [golangci-lint]=hack/tools/golangci-lint
)
declare -A package=(
  [controller-gen]=sigs.k8s.io/controller-tools/cmd/controller-gen
  [kustomize]=sigs.k8s.io/kustomize/kustomize/v5
  [helm]=helm.sh/helm/v4/cmd/helm
  [golangci-lint]=github.com/golangci/golangci-lint/v2/cmd/golangci-lint
)

tools=("$@")
[ $# -gt 0 ] || tools=(controller-gen kustomize helm golangci-lint)
mkdir -p "$FINDEP_CACHE/tools"
for name in "${tools[@]}"; do
  dir=${module[$name]:?unknown tool $name}
  stamp="$FINDEP_CACHE/tools/.$name.stamp"
  want=$(sha256sum "$dir/go.mod" "$dir/go.sum" | sha256sum)
  [ -x "$FINDEP_CACHE/tools/$name" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && continue
  step "Building $name (once)"
  (cd "$dir" && CGO_ENABLED=0 go build -ldflags='-s -w' -o "$FINDEP_CACHE/tools/$name" "${package[$name]}")
  printf '%s\n' "$want" >"$stamp"
done
