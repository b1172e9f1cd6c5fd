// SPDX-License-Identifier: Apache-2.0
//
// A pipeline enqueues task lists on a device: every operation on the stream of
// its task, between the waits and the record that EventPlan gives it. The
// compute stream begins and ends a step: the other streams wait for it first
// (the fork) and it for them last (the join), which also makes a capture of all
// three streams possible. Nothing here waits for the device but wait().

#ifndef FINDEP_CUDA_PIPELINE_H
#define FINDEP_CUDA_PIPELINE_H

#include <atomic>
#include <vector>

#include "cuda/comm.h"
#include "cuda/graph.h"
#include "cuda/pipeline_device.h"
#include "cuda/pipeline_events.h"

namespace findep {

// A buffer that a list's numbers stand for.
struct PipelineBuffer {
  void* data;
  uint64_t bytes;
};

class Pipeline {
 public:
  // Graphs of this many lists are kept.
  static constexpr size_t kGraphs = 32;

  Pipeline(PipelineDevice& device, Communicator& comm, PipelineClock& clock)
      : device_(device), comm_(comm), clock_(clock), graphs_(device, kGraphs) {}

  // Checks the list and enqueues it; throws before anything is enqueued if it
  // or a peer is not in order. One list at a time: call wait before the next.
  void run(const uint8_t* list, uint64_t bytes, const PipelineBuffer* buffers, uint32_t count);

  // Returns when what was enqueued has run. Throws FINDEP_TIMED_OUT after the
  // time-out, FINDEP_CANCELLED after cancel, and what the device or a peer
  // failed with; transfers are aborted in all of these cases.
  void wait(int64_t timeout_microseconds);

  // When the tasks of the last list ran, if it was timed and wait has returned:
  // `count` pairs of start and end since its beginning, in nanoseconds.
  void times(findep_task_time* times, uint64_t count);

  // Ends wait, from any thread.
  void cancel() noexcept { cancelled_.store(true); }

 private:
  void plan(const TaskList& list);
  void enqueue(const TaskList& list);
  void capture(const TaskList& list, const uint8_t* data, uint64_t bytes);
  bool begin_capture();
  void tasks(const TaskList& list);
  void operation(const ListTask& task, const ListOp& op);
  void transfer(const ListOp& op);
  void give_up() noexcept;
  void poll(int64_t since, int64_t timeout_microseconds);

  PipelineDevice& device_;
  Communicator& comm_;
  PipelineClock& clock_;
  GraphCache graphs_;
  EventPlan events_;
  std::vector<void*> addresses_;
  std::vector<uint64_t> sizes_;
  std::vector<Transfer> transfers_;
  std::atomic<bool> cancelled_{false};
  bool pending_ = false, captures_ = true;
  // Tasks of the last list if that was timed and nothing failed, else 0.
  uint32_t timed_ = 0;
};

}  // namespace findep

#endif  // FINDEP_CUDA_PIPELINE_H
