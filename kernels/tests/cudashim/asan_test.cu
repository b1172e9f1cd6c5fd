// SPDX-License-Identifier: Apache-2.0
//
// The address sanitizer on the model finds seeded accesses outside of memory, on the
// stacks of fibers and behind barriers, and only those. Each runs in a process of its
// own, since the sanitizer ends it.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "cuda_runtime.h"

namespace {

constexpr unsigned kThreads = 64, kCount = 100;

// Writes element i + shift of the first, and reads that of the second.
void shifted(float* to, const float* from, int shift, bool write) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= static_cast<int>(kCount)) return;
  __syncthreads();
  if (write) {
    to[i + shift] = 1;
  } else {
    to[i] = from[i + shift];
  }
}

bool ran(const std::function<void()>& kernel, unsigned threads, size_t shared) {
  return cuda_shim::launch(kernel, dim3(1), dim3(threads), shared) == cudaSuccess;
}

// Ends with 0 if nothing was found.
int attempt(int defect) {
  void *a = nullptr, *b = nullptr;
  if (cudaMalloc(&a, kCount * sizeof(float)) != cudaSuccess || cudaMalloc(&b, kCount * sizeof(float)) != cudaSuccess) return 1;
  float *to = static_cast<float*>(a), *from = static_cast<float*>(b);
  cudaMemset(from, 0, kCount * sizeof(float));
  bool fine = true;
  switch (defect) {
    case 0: fine = ran([&] { shifted(to, from, 0, false); }, kCount, 0) && ran([&] { shifted(to, from, 0, true); }, kCount, 0); break;
    case 1: fine = ran([&] { shifted(to, from, 1, true); }, kCount, 0); break;    // writes past the end
    case 2: fine = ran([&] { shifted(to, from, 1, false); }, kCount, 0); break;   // reads past the end
    case 3: fine = ran([&] { shifted(to, from, -1, true); }, kCount, 0); break;   // writes before the start
    case 4: fine = ran([&] { shifted(to, from, -1, false); }, kCount, 0); break;  // reads before the start
    case 5:  // freed
      cudaFree(from);
      fine = ran([&] { shifted(to, from, 0, false); }, kCount, 0);
      return fine ? 0 : 1;
    case 6:  // shared memory beyond what the launch gives
      fine = ran(
          [&] {
            FINDEP_DYNAMIC_SHARED(float, shared);
            shared[threadIdx.x + 1] = 1;
            __syncthreads();
            to[threadIdx.x] = shared[threadIdx.x];
          },
          kThreads, kThreads * sizeof(float));
      break;
    default:  // an array of a thread's own
      fine = ran(
          [&] {
            float own[4] = {};
            const unsigned at = threadIdx.x % 5;
            __syncthreads();
            *static_cast<volatile float*>(own + at) = 1;
            to[threadIdx.x] = own[0];
          },
          kThreads, 0);
  }
  cudaFree(to);
  cudaFree(from);
  return fine ? 0 : 1;
}

// Whether the process ended by the sanitizer.
int ended(int defect) {
  fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    // What is found is meant to be found.
    if (defect != 0 && freopen("/dev/null", "w", stderr) == nullptr) _exit(3);
    _exit(attempt(defect));
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

}  // namespace

int main() {
  constexpr int kDefects = 7;
  int failed = 0;
  if (ended(0) != 0) {
    fprintf(stderr, "asan_test: something is found in correct kernels\n");
    ++failed;
  }
  for (int defect = 1; defect <= kDefects; ++defect) {
    const int status = ended(defect);
    if (status == 0 || status == 3) {
      fprintf(stderr, "asan_test: defect %d is not found\n", defect);
      ++failed;
    }
  }
  printf("asan_test: %d of %d defects found\n", kDefects - failed, kDefects);
  return failed == 0 ? 0 : 1;
}
