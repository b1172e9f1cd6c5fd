// SPDX-License-Identifier: Apache-2.0
//
// What the files of the CPU backend share: the handles behind the ABI.

#ifndef FINDEP_CPU_INTERNAL_H
#define FINDEP_CPU_INTERNAL_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "common/operations.h"
#include "cpu/pool.h"
#include "findep/backend.h"

struct findep_device {
  int64_t memory_bytes = 0;
  std::atomic<int64_t> used_bytes{0};
  std::atomic<int64_t> objects{0};
};

struct findep_buffer {
  findep_device* device;
  void* data;
  int64_t bytes;
  int64_t mapped_bytes;
};

struct findep_event {
  findep_device* device;
  std::mutex mutex;
  std::condition_variable changed;
  bool recorded = false;
  bool cancelled = false;
};

// A stream runs every operation at once on the thread that issues it, with the
// help of its pool.
struct findep_stream {
  findep_stream(findep_device* d, int threads) : device(d), pool(threads), scratch(threads) {}

  findep_device* device;
  findep::Pool pool;
  // One per worker of the pool; kept between operations to spare page faults.
  std::vector<std::vector<float>> scratch;
  std::string error;
};

#endif  // FINDEP_CPU_INTERNAL_H
