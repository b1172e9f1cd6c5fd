#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tests of the CUDA backend that need a GPU; `make test-cuda` runs them with
# the library's path in FINDEP_CUDA_LIBRARY. Without a GPU it says so and is done.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

build/cuda/loader "$FINDEP_CUDA_LIBRARY" > build/cuda/devices
if grep -q 'has no device' build/cuda/devices; then
  echo "test-cuda: skipped: $(head -1 build/cuda/devices)"
  exit 0
fi
head -1 build/cuda/devices

step "conformance suite on the device"
go test -c -tags findep_native -o build/cuda/native.test ./runtime/backend/native
(cd runtime/backend/native && ../../../build/cuda/native.test -test.run 'TestCUDALibrary')

step "the fixtures of transformers, attention and experts as ranks on one device"
FINDEP_TEST_BACKEND=cuda go test -count=1 -tags findep_native -run 'TestRunEqualsTransformers' ./cmd/findep

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "compute-sanitizer $tool"
    (cd runtime/backend/native && compute-sanitizer --tool "$tool" --error-exitcode 9 \
      ../../../build/cuda/native.test -test.run 'TestCUDALibrary')
  done
else
  step "compute-sanitizer is not on the PATH: memcheck and racecheck did not run"
fi

step "time of each operation"
(cd runtime/backend/native && ../../../build/cuda/native.test -test.run '^$' -test.bench 'CUDA' -test.benchtime 100x)
step "test-cuda: all passed"
