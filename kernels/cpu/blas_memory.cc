// SPDX-License-Identifier: Apache-2.0
//
// A lock around the BLAS's own scratch memory. OpenBLAS 0.3.21 in its serial
// build (Debian 12's) releases its lock before it looks for a free buffer in
// blas_memory_alloc, so two threads can be given the same one and their
// products mix. Streams run on threads of their own, so that happens to us: the
// library is linked with --wrap for the two functions, which brings every call
// here. The lock costs some 20 ns for each product and is held for no longer.

#include <mutex>

extern "C" {

void* __real_blas_memory_alloc(int procpos);
void __real_blas_memory_free(void* buffer);

void* __wrap_blas_memory_alloc(int procpos);
void __wrap_blas_memory_free(void* buffer);

}  // extern "C"

namespace {

std::mutex& memory_lock() {
  // Never destroyed: threads may still compute while the process ends.
  static std::mutex* lock = new std::mutex;
  return *lock;
}

}  // namespace

void* __wrap_blas_memory_alloc(int procpos) {
  std::lock_guard<std::mutex> guard(memory_lock());
  return __real_blas_memory_alloc(procpos);
}

void __wrap_blas_memory_free(void* buffer) {
  std::lock_guard<std::mutex> guard(memory_lock());
  __real_blas_memory_free(buffer);
}
