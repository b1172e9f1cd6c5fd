// SPDX-License-Identifier: Apache-2.0

#ifndef FINDEP_CPU_POOL_H
#define FINDEP_CPU_POOL_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace findep {

// The threads of one stream: the caller and up to threads-1 helpers, which are
// started when they are first needed and sleep between operations.
class Pool {
 public:
  // body(index, worker): worker in [0, threads()) names the thread's scratch.
  using Body = std::function<void(int64_t index, int worker)>;

  explicit Pool(int threads) : threads_(threads) {}
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Runs body for every index in [0, count), in no fixed order, and returns
  // when all are done, throwing the first exception of any. With parallel
  // false, or nothing to share, the caller does it alone, in order.
  void run(int64_t count, bool parallel, const Body& body);

 private:
  void start();
  void help(int worker);
  void work(int worker);

  const int threads_;
  std::vector<std::thread> helpers_;

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  // Guarded by mutex_; a helper joins a generation once.
  uint64_t generation_ = 0;
  int active_ = 0;
  bool stop_ = false;
  std::exception_ptr failure_;

  // The work of the current generation.
  const Body* body_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
};

}  // namespace findep

#endif  // FINDEP_CPU_POOL_H
