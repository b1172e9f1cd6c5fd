# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the scripts share: progress lines, and tools built on demand.

: "${FINDEP_CACHE:=$HOME/.cache/findep}"
export FINDEP_CACHE

# step TEXT prints one progress line with the seconds since the script began.
step() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

# build_localcluster builds the cluster command into the cache.
build_localcluster() {
  mkdir -p "$FINDEP_CACHE/tools"
  CGO_ENABLED=0 go build -o "$FINDEP_CACHE/tools/localcluster" ./hack/localcluster
}

# build_tool NAME builds one pinned development tool unless it is there.
build_tool() { hack/tools.sh "$1"; }
