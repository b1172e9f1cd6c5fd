#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Regenerates the Go code of every .proto file below runtime/. Needs protoc
# (Debian package protobuf-compiler); the Go plugins are installed at the
# versions below into bin/proto, so that the output does not depend on what the
# machine has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PROTOC_GEN_GO_VERSION=v1.36.12
PROTOC_GEN_GO_GRPC_VERSION=v1.6.0

if ! command -v protoc >/dev/null; then
  echo "generate-proto: protoc is missing; install it with: apt-get install protobuf-compiler" >&2
  exit 1
fi

plugins="$PWD/bin/proto"
install_plugin() { # module, version
  local binary="$plugins/${1##*/}"
  if [[ "$(cat "$binary.version" 2>/dev/null)" != "$2" ]]; then
    GOBIN="$plugins" GOFLAGS="" go install "$1@$2"
    echo "$2" >"$binary.version"
  fi
}
mkdir -p "$plugins"
install_plugin google.golang.org/protobuf/cmd/protoc-gen-go "$PROTOC_GEN_GO_VERSION"
install_plugin google.golang.org/grpc/cmd/protoc-gen-go-grpc "$PROTOC_GEN_GO_GRPC_VERSION"

mapfile -t files < <(find runtime -name '*.proto' | LC_ALL=C sort)
if ((${#files[@]} == 0)); then
  echo "generate-proto: no .proto file below runtime/" >&2
  exit 1
fi
PATH="$plugins:$PATH" protoc --proto_path=. \
  --go_out=. --go_opt=paths=source_relative \
  --go-grpc_out=. --go-grpc_opt=paths=source_relative \
  "${files[@]}"

# protoc's own version is the only thing in the output that the pins above do
# not fix; drop it so that another protoc gives the same bytes.
for file in "${files[@]}"; do
  for generated in "${file%.proto}.pb.go" "${file%.proto}_grpc.pb.go"; do
    # A file without a service has no second one.
    if [[ -f "$generated" ]]; then
      sed -i -E '/^\/\/ (- )?\s*protoc\s+\(?v/d' "$generated"
    fi
  done
done
