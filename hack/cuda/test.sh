#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tests of the CUDA backend that need a GPU; `make test-cuda` runs them with
# the library's path in FINDEP_CUDA_LIBRARY. Without a GPU it says so and is done.
# With FINDEP_TEST_BACKEND=cpu the steps that are not tests of the library run on
# the CPU backend in a short form: `make test-cuda-steps`, so that they are known
# to work up to the device.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

backend=${FINDEP_TEST_BACKEND:-cuda}
out=build/cuda/measured
mkdir -p "$out"
model=(--model-name deepseek-ai/DeepSeek-V2-Lite)
calibration=(--budget 2m --with-communication)
shares=()
bench=(--shape test/testdata/shapes/balanced.json --prompt-tokens 512 --repeat 12)
if [ "$backend" = cpu ]; then
  model=(--model test/testdata/tinymodel)
  calibration=(--budget 5s --trials 5 --warmup 2 --with-communication)
  shares=(--small)
  bench=(--model test/testdata/tinymodel --prompt-tokens 32 --repeat 1 --warm-up-budget 0s)
fi

# correctness is what asserts; the steps after it measure.
correctness() {
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
}

# calibrated refuses a profile of poor fits by exit code 4, which on a busy CPU
# says nothing about the steps.
calibrated() {
  local code=0
  build/cuda/findep calibrate --backend "$backend" "${model[@]}" "${calibration[@]}" \
    >"$out/profile.yaml" 2>"$out/calibration.txt" || code=$?
  grep -v $'\r' "$out/calibration.txt" || true
  [ $code -eq 0 ] && return
  [ "$backend" = cpu ] && grep -q 'no profile is written, because plans' "$out/calibration.txt" && return
  return $code
}

[ "$backend" = cpu ] || correctness
go build -tags findep_native -o build/cuda/findep ./cmd/findep
step "calibration: every R2 must be above 0.99"
calibrated
step "share of the measured peak by operation"
go run -tags findep_native ./hack/cuda/shares --backend "$backend" "${shares[@]}" | tee "$out/shares.txt"
step "FinDEP, PPPipe and Sequential in one run"
build/cuda/findep bench --backend "$backend" "${bench[@]}" | tee "$out/policies.txt"
step "test-cuda: all passed; what was measured is in $out"
