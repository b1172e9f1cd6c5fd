#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures the operator at scale beside a client that only creates pods and beside
# LeaderWorkerSet, one after the other on fresh control planes, and prints a table
# in Markdown. Arguments go to test/perf; --groups 5 --nodes 50 tries it in minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
module=sigs.k8s.io/lws@v0.8.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/findep/perf
mkdir -p "$cache"

source=$("$go" mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
if [ ! -x "$cache/lws-manager" ]; then
  (cd "$source" && CGO_ENABLED=0 "$go" build -o "$cache/lws-manager" ./cmd)
fi
printf '%s, %s cores, Linux %s\n\n' "$(date -u +%F)" "$(nproc)" "$(uname -r)"
"$go" run ./test/perf --subject bare,findep,findep-nogang,lws --rest "${PERF_REST:-3m}" --table \
  --lws-manager "$cache/lws-manager" --lws-source "$source" "$@"
