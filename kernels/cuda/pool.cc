// SPDX-License-Identifier: Apache-2.0

#include "cuda/pool.h"

#include <iterator>

#include "common/failure.h"

namespace findep {

// The smallest range that fits keeps large ones whole.
uint64_t MemoryPool::take(uint64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t want = bytes > bytes_ ? bytes : (bytes + kAlignment - 1 + (bytes == 0 ? 1 : 0)) / kAlignment * kAlignment;
  auto best = free_.end();
  for (auto i = free_.begin(); i != free_.end(); ++i) {
    if (i->second >= want && (best == free_.end() || i->second < best->second)) best = i;
  }
  if (best == free_.end()) {
    FINDEP_FAIL(FINDEP_MEMORY_EXCEEDED,
                "the plan needs %llu bytes more, but of the pool's %llu bytes %llu are in use; take a smaller "
                "micro-batch, fewer micro-batches in flight or a smaller KV cache",
                static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(bytes_),
                static_cast<unsigned long long>(used_));
  }
  const uint64_t offset = best->first, rest = best->second - want;
  free_.erase(best);
  if (rest > 0) free_[offset + want] = rest;
  taken_[offset] = want;
  used_ += want;
  return offset;
}

void MemoryPool::give(uint64_t offset) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto taken = taken_.find(offset);
  if (taken == taken_.end()) return;
  // The node moves over, so that giving back needs no memory of its own.
  auto node = taken_.extract(taken);
  used_ -= node.mapped();
  const auto here = free_.insert(std::move(node)).position;
  const auto after = std::next(here);
  if (after != free_.end() && here->first + here->second == after->first) {
    here->second += after->second;
    free_.erase(after);
  }
  if (here == free_.begin()) return;
  const auto before = std::prev(here);
  if (before->first + before->second == here->first) {
    before->second += here->second;
    free_.erase(here);
  }
}

uint64_t MemoryPool::used() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return used_;
}

}  // namespace findep
