// SPDX-License-Identifier: Apache-2.0

#include "cuda/pipeline_events.h"

#include <algorithm>

namespace findep {

void EventPlan::make(const TaskList& list, uint32_t first) {
  const uint32_t n = list.header.tasks;
  clocks_.assign(n, Clock{});
  places_.assign(n, 0);
  awaited_.assign(n, {kNoEvent, kNoEvent});
  last_waiter_.assign(n, kNoEvent);
  tasks_.assign(n, TaskEvents{{kNoEvent, kNoEvent}, 0, kNoEvent});
  order(list);
  number(list, first);
}

// Walks the tasks with vector clocks. Of a task's dependencies on another
// stream only the last matters; it needs a wait unless the stream knows of it
// already, or learns of it by the wait for the other stream.
void EventPlan::order(const TaskList& list) {
  std::array<Clock, kStreams> now{};       // what each stream has waited for
  std::array<uint32_t, kStreams> ended{};  // how many tasks each stream has
  for (uint32_t i = 0; i < list.header.tasks; ++i) {
    const ListTask t = list.task(i);
    Clock& clock = now[t.stream];
    std::array<uint32_t, kStreams> latest;
    latest.fill(kNoEvent);
    for (uint32_t k = 0; k < t.deps; ++k) {
      const uint32_t d = list.dep(t.first_dep + k);
      const uint32_t stream = list.task(d).stream;
      if (stream != t.stream && places_[d] > clock[stream]) latest[stream] = d;
    }
    uint32_t waits = 0;
    for (uint32_t s = 0; s < kStreams; ++s) {
      const uint32_t d = latest[s];
      if (d == kNoEvent) continue;
      const bool implied = std::any_of(latest.begin(), latest.end(), [&](uint32_t other) {
        return other != kNoEvent && other != d && clocks_[other][s] >= places_[d];
      });
      if (implied) continue;
      awaited_[i][waits++] = d;
      last_waiter_[d] = i;
    }
    for (uint32_t k = 0; k < waits; ++k) {
      const Clock& other = clocks_[awaited_[i][k]];
      for (uint32_t s = 0; s < kStreams; ++s) clock[s] = std::max(clock[s], other[s]);
    }
    clock[t.stream] = places_[i] = ++ended[t.stream];
    clocks_[i] = clock;
  }
}

void EventPlan::number(const TaskList& list, uint32_t first) {
  free_.clear();
  events_ = first;
  for (uint32_t i = 0; i < list.header.tasks; ++i) {
    TaskEvents& e = tasks_[i];
    for (const uint32_t d : awaited_[i]) {
      if (d == kNoEvent) continue;
      e.waits[e.wait_count++] = tasks_[d].record;
      if (last_waiter_[d] == i) free_.push_back(tasks_[d].record);
    }
    if (last_waiter_[i] == kNoEvent) continue;
    if (free_.empty()) {
      e.record = events_++;
    } else {
      e.record = free_.back();
      free_.pop_back();
    }
  }
}

}  // namespace findep
