// SPDX-License-Identifier: Apache-2.0
//
// Finds races on shared memory: two threads of a block that touch the same byte
// with no __syncthreads in between, one of them writing. The order in which the
// model happens to run threads does not matter.
//
// The kernels are compiled with -fsanitize=thread, which makes the compiler call
// a function at every access to memory. Here are these functions, in place of
// the sanitizer's own, which knows host threads only. Shared memory is what the
// launch gave and every variable of the library itself: kernels have no others.
//
// Shuffles order nothing, as on a GPU, where they are no memory barriers. Of the
// readers of a byte two are remembered, so that a race is found whenever
// its writer is another thread than one of them.

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_runtime.h"

// The linker's names for the ends of the library's variables.
extern "C" __attribute__((visibility("hidden"))) char __bss_start[];
extern "C" __attribute__((visibility("hidden"))) char _end[];

namespace {

constexpr size_t kDynamicBytes = 48 * 1024;

// Accesses of one byte in one epoch. Threads are counted from 1.
struct Shadow {
  uint64_t epoch = 0;
  uint16_t writer = 0, reader = 0, another_reader = 0;
};

std::vector<Shadow> shadows;

void report(const Shadow& s, unsigned thread, bool write, unsigned other, int64_t place) {
  const bool dynamic = place < static_cast<int64_t>(kDynamicBytes);
  char text[160];
  snprintf(text, sizeof(text), "a race on shared memory: thread %u %s byte %lld of the %s part that thread %u %s", thread - 1,
           write ? "writes" : "reads", static_cast<long long>(dynamic ? place : place - static_cast<int64_t>(kDynamicBytes)),
           dynamic ? "dynamic" : "static", other - 1, other == s.writer ? "wrote" : "read");
  cuda_shim::fail_launch(text);
}

inline void touch(int64_t place, bool write) {
  Shadow& s = shadows[static_cast<size_t>(place)];
  const uint16_t thread = cuda_shim::running_thread;
  if (s.epoch != cuda_shim::epoch) s = Shadow{cuda_shim::epoch, 0, 0, 0};
  if (s.writer != 0 && s.writer != thread) return report(s, thread, write, s.writer, place);
  if (!write) {
    if (s.reader != thread) s.another_reader = s.reader;
    s.reader = thread;
    return;
  }
  for (const uint16_t reader : {s.reader, s.another_reader}) {
    if (reader != 0 && reader != thread) return report(s, thread, write, reader, place);
  }
  s.writer = thread;
}

inline void access(const void* at, size_t bytes, bool write) {
  if (cuda_shim::running_thread == 0) return;
  const char* const byte = static_cast<const char*>(at);
  const char* const dynamic = static_cast<const char*>(cuda_shim::dynamic_shared);
  int64_t place;
  if (byte >= __bss_start && byte < _end) {
    place = static_cast<int64_t>(kDynamicBytes) + (byte - __bss_start);
  } else if (byte >= dynamic && byte < dynamic + cuda_shim::dynamic_shared_bytes) {
    place = byte - dynamic;
  } else {
    return;
  }
  if (shadows.empty()) shadows.resize(kDynamicBytes + static_cast<size_t>(_end - __bss_start));
  for (size_t i = 0; i < bytes; ++i) touch(place + static_cast<int64_t>(i), write);
}

}  // namespace

#define FINDEP_ACCESS(bytes)                                                        \
  void __tsan_read##bytes(void* at) { access(at, bytes, false); }                   \
  void __tsan_write##bytes(void* at) { access(at, bytes, true); }                   \
  void __tsan_unaligned_read##bytes(void* at) { access(at, bytes, false); }         \
  void __tsan_unaligned_write##bytes(void* at) { access(at, bytes, true); }

extern "C" {

FINDEP_ACCESS(1)
FINDEP_ACCESS(2)
FINDEP_ACCESS(4)
FINDEP_ACCESS(8)
FINDEP_ACCESS(16)

void __tsan_read_range(void* at, size_t bytes) { access(at, bytes, false); }
void __tsan_write_range(void* at, size_t bytes) { access(at, bytes, true); }
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

}  // extern "C"
