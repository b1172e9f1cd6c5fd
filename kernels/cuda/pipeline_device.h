// SPDX-License-Identifier: Apache-2.0
//
// What a pipeline needs from a device: streams, events, operations and graphs,
// by number. kernels/cuda/pipeline_cuda.cc does it with CUDA,
// kernels/tests/recorder writes down what was asked for, so that the order can
// be checked where there is no GPU. Communication is comm.h's.
//
// Every function but a destructor may throw Failure.

#ifndef FINDEP_CUDA_PIPELINE_DEVICE_H
#define FINDEP_CUDA_PIPELINE_DEVICE_H

#include <cstdint>

#include "common/failure.h"
#include "common/tasklist.h"

namespace findep {

class PipelineDevice {
 public:
  virtual ~PipelineDevice() = default;

  // Makes events [0, count) exist. Called before anything is enqueued.
  virtual void reserve_events(uint32_t count) = 0;
  // Marks the end of what was enqueued on the stream.
  virtual void record(uint32_t stream, uint32_t event) = 0;
  // What is enqueued next on the stream starts after the last record of the
  // event that was enqueued before this call.
  virtual void wait(uint32_t stream, uint32_t event) = 0;
  // Enqueues one operation; the arguments are read before it returns.
  virtual void run(uint32_t stream, const findep_command& command) = 0;
  // Tells which task what follows belongs to, for traces and profilers.
  virtual void task(uint32_t index, const ListTask& task) = 0;

  // Makes stamps [0, count) exist, as reserve_events does.
  virtual void reserve_stamps(uint32_t count) = 0;
  // Notes the time at which what was enqueued on the stream has run. A graph notes
  // it each time that it is launched.
  virtual void stamp(uint32_t stream, uint32_t stamp) = 0;
  // The time between two stamps that have happened.
  virtual int64_t nanoseconds(uint32_t from, uint32_t to) = 0;

  // Between begin and end, what is enqueued on the stream, and on streams that
  // wait for it, is kept and not run. end returns what graph_launch runs.
  virtual void capture_begin(uint32_t stream) = 0;
  virtual uint64_t capture_end(uint32_t stream) = 0;
  // Ends a capture that failed; never throws.
  virtual void capture_drop(uint32_t stream) noexcept = 0;
  virtual void graph_launch(uint64_t graph, uint32_t stream) = 0;
  virtual void graph_free(uint64_t graph) noexcept = 0;

  // Whether the last record of the event has happened. Throws when the device
  // is lost.
  virtual bool happened(uint32_t event) = 0;
};

// The time, passed in so that tests own it.
class PipelineClock {
 public:
  virtual ~PipelineClock() = default;
  virtual int64_t now_microseconds() = 0;
  virtual void sleep_microseconds(int64_t duration) = 0;
};

}  // namespace findep

#endif  // FINDEP_CUDA_PIPELINE_DEVICE_H
