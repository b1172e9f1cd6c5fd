#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the images of the Dockerfile without a container engine's daemon, looks
# at what came out, runs it, and writes a bill of materials for each to
# build/images: hack/images/build.sh [TARGET...], as root on Debian.
#
#   IMAGE_BASES   debian: make the base images from Debian's mirror and this
#                 machine's Go, so that no registry is needed (the default);
#                 registry: pull those that the Dockerfile names
#   IMAGE_PREFIX  name of the images, localhost/findep by default
#   CUDA_ARCHES   architectures of the CUDA library, all by default
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

targets=("$@")
[ $# -gt 0 ] || targets=(manager server runtime-cpu runtime-cuda)
prefix=${IMAGE_PREFIX:-localhost/findep}
version=${VERSION:-$(git describe --tags --always --dirty)}
revision=$(git rev-parse HEAD)
work=$FINDEP_CACHE/images
out=build/images
# The toolkit's copy alone has gigabytes, which /tmp may not.
export TMPDIR=$work/tmp STORAGE_DRIVER=${STORAGE_DRIVER:-overlay} BUILDAH_ISOLATION=chroot
mkdir -p "$TMPDIR" "$work/go-build" "$out"

need() {
  local missing=()
  command -v buildah >/dev/null || missing+=(buildah)
  command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
  [ ${#missing[@]} -eq 0 ] && return
  step "Installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

b() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }

# base NAME PACKAGES makes an image of a minimal Debian, once.
base() {
  b inspect --type image "localhost/findep-base/$1" >/dev/null 2>&1 && return
  step "Base image $1 from Debian's mirror"
  mmdebstrap --quiet --variant=minbase --include="$2" bookworm "$work/$1.tar"
  local c
  c=$(b from scratch)
  b add -q "$c" "$work/$1.tar" / >/dev/null
  if [ "$1" = golang ]; then
    b copy -q "$c" "$(go env GOROOT)" /usr/local/go >/dev/null
    b config --env GOPATH=/go --env PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin "$c"
  fi
  b commit -q --rm "$c" "localhost/findep-base/$1" >/dev/null
  rm "$work/$1.tar"
}

# Caches of this machine are mounted where the build would fill its own.
build() {
  local args=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
  [ -z "${CUDA_ARCHES:-}" ] || args+=(--build-arg "CUDA_ARCHES=$CUDA_ARCHES")
  if [ "${IMAGE_BASES:-debian}" = debian ]; then
    base debian ca-certificates
    base golang ca-certificates,g++,git,libc6-dev,make,pkg-config,python3
    args+=(--build-arg GO_IMAGE=localhost/findep-base/golang --build-arg DEBIAN_IMAGE=localhost/findep-base/debian)
  fi
  step "Building $1"
  b build --format oci --target "$1" -t "$prefix/$1:$version" "${args[@]}" \
    --volume "$(go env GOMODCACHE):/cache/go-mod" --volume "$work/go-build:/cache/go-build" \
    --volume "$FINDEP_CACHE:/cache/findep" --volume /etc/ssl/certs:/etc/ssl/certs:ro \
    . >"$out/$1.log" 2>&1 || { tail -40 "$out/$1.log" >&2; return 1; }
}

# fail TARGET WHAT ends the script.
fail() { echo "image $1: $2" >&2; exit 1; }

# has TARGET TEMPLATE WANT compares a field of the image's configuration.
has() {
  local got
  got=$(b inspect --type image --format "{{$2}}" "$prefix/$1:$version")
  [ "$got" = "$3" ] || fail "$1" "$2 is '$got', want '$3'"
}

# answers TARGET WANT COMMAND... runs the image as its own user. On a busy machine
# buildah now and then loses what a command wrote just before it ended, so it may
# answer again.
answers() {
  local target=$1 want=$2 got
  shift 2
  for _ in 1 2 3; do
    got=$(b run --volume "$PWD/test/testdata/tinymodel:/model:ro" "$container" -- "$@" 2>&1) || true
    if grep -q -- "$want" <<<"$got"; then return; fi
  done
  fail "$target" "$* answered without '$want': $got"
}

# names TARGET COMPONENT... requires components in the image's bill of materials.
names() {
  local target=$1 component
  shift
  for component in "$@"; do
    grep -q "\"pkg:pypi/$component@" "$out/$target.cdx.json" || fail "$target" "its bill of materials does not name $component"
  done
}

# look checks one image and writes its bill of materials.
look() {
  has "$1" .OCIv1.Config.User 65532:65532
  has "$1" 'index .OCIv1.Config.Labels "org.opencontainers.image.version"' "$version"
  has "$1" 'index .OCIv1.Config.Labels "org.opencontainers.image.revision"' "$revision"
  container=$(b from "$prefix/$1:$version")
  local root
  root=$(b mount "$container")
  case $1 in
    manager) answers "$1" 'Usage' /manager --help ;;
    server) answers "$1" "$version" /server --version ;;
    runtime-cpu)
      answers "$1" "$version" /runtime --version
      answers "$1" measuredTokensPerSecond /findep run --model /model --prompt 'In those days' --max-tokens 4 -o json
      ;;
    runtime-cuda)
      answers "$1" "$version" /runtime --version
      answers "$1" 'no CUDA device' /findep calibrate --backend cuda --model-name deepseek-ai/DeepSeek-V2-Lite
      if find "$root" -name 'nvcc*' -o -name '*.cuh' -o -name 'libcudart_static*' | grep -q .; then
        fail "$1" "parts of the CUDA toolkit are in it"
      fi
      answers "$1" 'all are found' sh -c 'ldd /usr/local/lib/findep/lib*.so* | grep "not found" || echo all are found'
      ;;
  esac
  go -C hack/images run ./sbom --root "$root" --name "$prefix/$1" --version "$version" --output "$PWD/$out/$1.cdx.json"
  [ "$1" != runtime-cuda ] || names "$1" nvidia-cublas nvidia-nccl-cu13 nvidia-cuda-runtime
  step "$1: $(du -sm "$root" | cut -f1) MB, $(grep -c '"findep:foundIn"' "$out/$1.cdx.json") components in $out/$1.cdx.json"
  b umount "$container" >/dev/null
  b rm "$container" >/dev/null
}

[ "$(id -u)" = 0 ] || { echo "hack/images/build.sh needs root: it makes base images and mounts" >&2; exit 1; }
need
for target in "${targets[@]}"; do
  build "$target"
  look "$target"
done
step "images: all built, run and inventoried"
