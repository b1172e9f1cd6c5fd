# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the scripts share: progress lines, and tools built on demand.

: "${FINDEP_CACHE:=$HOME/.cache/findep}"
export FINDEP_CACHE

# step TEXT prints one progress line with the seconds since the script began.
step() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

# localcluster runs the cluster command, which also builds the pinned programs
# and tools; it is compiled once per script.
localcluster() {
  if [ -z "${localcluster_built:-}" ]; then
    mkdir -p "$FINDEP_CACHE/tools"
    CGO_ENABLED=0 go build -o "$FINDEP_CACHE/tools/localcluster" ./hack/localcluster
    localcluster_built=yes
  fi
  "$FINDEP_CACHE/tools/localcluster" "$@"
}

# use_tools NAME... builds pinned tools (minutes the first time, then cached)
# and puts them on the PATH.
use_tools() {
  localcluster build "$@"
  PATH="$(localcluster bin-dir):$PATH"
  export PATH
}
