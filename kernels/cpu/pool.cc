// SPDX-License-Identifier: Apache-2.0

#include "cpu/pool.h"

#include <system_error>
#include <utility>

namespace findep {

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void Pool::run(int64_t count, bool parallel, const Body& body) {
  if (!parallel || threads_ <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  start();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    body_ = &body;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    active_ = static_cast<int>(helpers_.size());
    ++generation_;
  }
  wake_.notify_all();
  work(0);
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return active_ == 0; });
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
}

// Starts the helpers. Where the system refuses threads the pool goes on with
// those it has.
void Pool::start() {
  while (static_cast<int>(helpers_.size()) < threads_ - 1) {
    const int worker = static_cast<int>(helpers_.size()) + 1;
    try {
      helpers_.emplace_back([this, worker] { help(worker); });
    } catch (const std::system_error&) {
      return;
    }
  }
}

void Pool::help(int worker) {
  uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
    }
    work(worker);
    std::lock_guard<std::mutex> lock(mutex_);
    if (--active_ == 0) done_.notify_one();
  }
}

void Pool::work(int worker) {
  try {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*body_)(i, worker);
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_ == nullptr) failure_ = std::current_exception();
    next_.store(count_, std::memory_order_relaxed);
  }
}

}  // namespace findep
