// SPDX-License-Identifier: Apache-2.0
//
// The race detector finds seeded races, and only those.

#include <cstdio>
#include <cstring>

#include "cuda_runtime.h"

namespace {

constexpr unsigned kThreads = 64;

// Every thread reads what its neighbour writes.
template <bool kBarrier>
void neighbour(int* out) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads];
}

// The barrier before the next round's write is missing.
template <bool kBarrier>
void twice(int* out) {
  FINDEP_DYNAMIC_SHARED(int, values);
  for (int round = 0; round < 2; ++round) {
    values[threadIdx.x] = round;
    __syncthreads();
    out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads];
    if (kBarrier) __syncthreads();
  }
}

// A shuffle makes the warp's lanes meet but orders no memory.
template <bool kBarrier>
void shuffled(int* out) {
  __shared__ int value;
  if (threadIdx.x == 0) value = 1;
  const int lane = __shfl_xor_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = value + lane;
}

int failures = 0;

template <typename Kernel>
void expect(const char* name, bool race, Kernel kernel) {
  int* const to = new int[kThreads];
  const cudaError_t status = cuda_shim::launch([&] { kernel(to); }, dim3(3), dim3(kThreads), kThreads * sizeof(int));
  delete[] to;
  const bool found = status == cudaErrorLaunchFailure && strstr(cudaGetErrorString(status), "a race on shared memory") != nullptr;
  if (found == race && (race || status == cudaSuccess)) return;
  printf("%s: a race is %s but was %s\n", name, race ? "there" : "not there", found ? "found" : "not found");
  ++failures;
}

}  // namespace

int main() {
  expect("neighbour", true, neighbour<false>);
  expect("neighbour with a barrier", false, neighbour<true>);
  expect("twice", true, twice<false>);
  expect("twice with a barrier", false, twice<true>);
  expect("shuffled", true, shuffled<false>);
  expect("shuffled with a barrier", false, shuffled<true>);
  printf("%d passed, %d failed\n", 6 - failures, failures);
  return failures == 0 ? 0 : 1;
}
