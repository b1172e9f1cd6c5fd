// SPDX-License-Identifier: Apache-2.0
//
// One piece of device memory from which all buffers of a rank's steps are cut,
// so that a step never asks the driver for memory and a plan that needs too
// much is known by arithmetic, before anything is enqueued.

#ifndef FINDEP_CUDA_POOL_H
#define FINDEP_CUDA_POOL_H

#include <cstdint>
#include <map>
#include <mutex>

namespace findep {

// Hands out ranges of [0, bytes). Safe for concurrent use.
class MemoryPool {
 public:
  // What transfers and 16-byte accesses like best.
  static constexpr uint64_t kAlignment = 256;

  explicit MemoryPool(uint64_t bytes) : bytes_(bytes / kAlignment * kAlignment) {
    if (bytes_ > 0) free_[0] = bytes_;
  }

  // Returns the offset of a free range; throws FINDEP_MEMORY_EXCEEDED, saying
  // how much is missing, where none is large enough.
  uint64_t take(uint64_t bytes);
  void give(uint64_t offset) noexcept;

  uint64_t bytes() const { return bytes_; }
  uint64_t used() const;

 private:
  const uint64_t bytes_;
  mutable std::mutex mutex_;
  // Offset to size; neighbours among the free ones are always joined.
  std::map<uint64_t, uint64_t> free_, taken_;
  uint64_t used_ = 0;
};

}  // namespace findep

#endif  // FINDEP_CUDA_POOL_H
