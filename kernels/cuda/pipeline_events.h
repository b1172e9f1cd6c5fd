// SPDX-License-Identifier: Apache-2.0
//
// Which tasks of a list wait for which, as few waits as will do.
//
// Let G be the graph of the list's dependencies and of each stream's order. The
// waits are exactly the edges between streams of the transitive reduction of G:
// leaving out any one of them would lose a dependency, and each is one of the
// list's. With three streams a task waits at most twice.
//
// An event is used again once all who wait for its record have been enqueued,
// since a wait means the last record before it; so few events serve any list.

#ifndef FINDEP_CUDA_PIPELINE_EVENTS_H
#define FINDEP_CUDA_PIPELINE_EVENTS_H

#include <array>
#include <cstdint>
#include <vector>

#include "common/tasklist.h"

namespace findep {

constexpr uint32_t kNoEvent = ~uint32_t{0};

// What surrounds one task on its stream.
struct TaskEvents {
  std::array<uint32_t, kStreams - 1> waits;  // events, before the task
  uint32_t wait_count;
  uint32_t record;  // after the task, or kNoEvent
};

class EventPlan {
 public:
  // Plans a checked list with events from `first` on.
  void make(const TaskList& list, uint32_t first);

  const TaskEvents& of(uint32_t task) const { return tasks_[task]; }
  // One above the last event used.
  uint32_t events() const { return events_; }

 private:
  // For each stream, how many of its tasks have ended when a task has.
  using Clock = std::array<uint32_t, kStreams>;

  void order(const TaskList& list);
  void number(const TaskList& list, uint32_t first);

  std::vector<Clock> clocks_;
  std::vector<uint32_t> places_;                              // of a task in its stream, from 1
  std::vector<std::array<uint32_t, kStreams - 1>> awaited_;  // tasks
  std::vector<uint32_t> last_waiter_;
  std::vector<TaskEvents> tasks_;
  std::vector<uint32_t> free_;
  uint32_t events_ = 0;
};

}  // namespace findep

#endif  // FINDEP_CUDA_PIPELINE_EVENTS_H
