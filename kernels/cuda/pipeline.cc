// SPDX-License-Identifier: Apache-2.0

#include "cuda/pipeline.h"

namespace findep {

namespace {

// Events of the step itself; those of tasks follow.
enum : uint32_t { kForkEvent, kJoinA2E, kJoinE2A, kEndEvent, kFirstTaskEvent };

// Stamps of a timed list: its beginning, and the start and end of each task.
constexpr uint32_t kBeginStamp = 0;
constexpr uint32_t start_stamp(uint32_t task) { return 1 + 2 * task; }
constexpr uint32_t end_stamp(uint32_t task) { return 2 + 2 * task; }

bool timed(const TaskList& list) { return (list.header.flags & kListTimed) != 0; }

// Polling costs a core while a step runs; this bounds both that and how late
// the end is seen.
constexpr int64_t kPollMicroseconds = 20;

// Room for any argument structure, aligned as the strictest of them.
struct alignas(16) Arguments {
  unsigned char bytes[kListMaxArgs];
};

}  // namespace

void Pipeline::run(const uint8_t* data, uint64_t bytes, const PipelineBuffer* buffers, uint32_t count) {
  FINDEP_REQUIRE(!pending_, "a list is still running; wait for it first");
  FINDEP_REQUIRE(count == 0 || buffers != nullptr, "%u buffers at NULL", count);
  if (cancelled_.load()) FINDEP_FAIL(FINDEP_CANCELLED, "the pipeline was aborted; make one for the next epoch");
  addresses_.clear();
  sizes_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    addresses_.push_back(buffers[i].data);
    sizes_.push_back(buffers[i].bytes);
  }
  TaskList list;
  const ListFault fault = list.open(data, bytes, sizes_.data(), count);
  FINDEP_REQUIRE(fault.text == nullptr, "task list: %s %llu (at %llu)", fault.text,
                 static_cast<unsigned long long>(fault.value), static_cast<unsigned long long>(fault.at));
  comm_.poll();
  timed_ = 0;
  try {
    if ((list.header.flags & kListCapture) != 0) {
      capture(list, data, bytes);
    } else {
      plan(list);
      enqueue(list);
    }
    device_.record(kStreamCompute, kEndEvent);
  } catch (...) {
    // Half a list is enqueued; its transfers wait for peers in vain.
    give_up();
    throw;
  }
  pending_ = true;
  if (timed(list)) timed_ = list.header.tasks;
}

// Graphs first: a communicator is not gone while graphs refer to it.
void Pipeline::give_up() noexcept {
  cancelled_.store(true);
  graphs_.clear();
  comm_.abort();
}

void Pipeline::capture(const TaskList& list, const uint8_t* data, uint64_t bytes) {
  uint64_t graph = 0;
  if (!graphs_.find(data, bytes, addresses_, &graph)) {
    plan(list);
    if (!begin_capture()) return enqueue(list);
    try {
      enqueue(list);
      graph = device_.capture_end(kStreamCompute);
    } catch (...) {
      device_.capture_drop(kStreamCompute);
      throw;
    }
    graphs_.insert(data, bytes, addresses_, graph);
  }
  device_.graph_launch(graph, kStreamCompute);
}

// A device without graphs runs the list all the same.
bool Pipeline::begin_capture() {
  if (!captures_) return false;
  try {
    device_.capture_begin(kStreamCompute);
    return true;
  } catch (const Failure& failure) {
    if (failure.status != FINDEP_UNSUPPORTED) throw;
    return captures_ = false;
  }
}

// Before a capture, in which nothing should be made.
void Pipeline::plan(const TaskList& list) {
  events_.make(list, kFirstTaskEvent);
  device_.reserve_events(events_.events());
  if (timed(list)) device_.reserve_stamps(start_stamp(list.header.tasks));
}

void Pipeline::enqueue(const TaskList& list) {
  if (timed(list)) device_.stamp(kStreamCompute, kBeginStamp);
  device_.record(kStreamCompute, kForkEvent);
  device_.wait(kStreamA2E, kForkEvent);
  device_.wait(kStreamE2A, kForkEvent);
  tasks(list);
  device_.record(kStreamA2E, kJoinA2E);
  device_.record(kStreamE2A, kJoinE2A);
  device_.wait(kStreamCompute, kJoinA2E);
  device_.wait(kStreamCompute, kJoinE2A);
}

void Pipeline::tasks(const TaskList& list) {
  const uint8_t* at = list.ops();
  for (uint32_t i = 0; i < list.header.tasks; ++i) {
    const ListTask t = list.task(i);
    const TaskEvents& e = events_.of(i);
    device_.task(i, t);
    for (uint32_t k = 0; k < e.wait_count; ++k) device_.wait(t.stream, e.waits[k]);
    if (timed(list)) device_.stamp(t.stream, start_stamp(i));
    for (uint32_t k = 0; k < t.ops; ++k) {
      ListOp op;
      at = TaskList::next(at, &op);
      operation(t, op);
    }
    if (timed(list)) device_.stamp(t.stream, end_stamp(i));
    if (e.record != kNoEvent) device_.record(t.stream, e.record);
  }
}

void Pipeline::operation(const ListTask& t, const ListOp& op) {
  if (op.code >= kOpSend) return transfer(op);
  const OpLayout layout = op_layout_of(op.code);
  Arguments arguments{};
  for (uint32_t m = 0; m < layout.matrices; ++m) {
    const ListMatrix from = TaskList::matrix(op, m);
    findep_matrix to{nullptr, from.rows, from.cols, from.stride, from.dtype, 0};
    if (from.rows > 0) {
      const int64_t size = from.dtype == FINDEP_F32 || from.dtype == FINDEP_I32 ? 4 : from.dtype == FINDEP_F8E4M3 ? 1 : 2;
      to.data = static_cast<char*>(addresses_[from.buffer]) + from.offset * size;
    }
    memcpy(arguments.bytes + sizeof(findep_matrix) * m, &to, sizeof(to));
  }
  const size_t head = sizeof(findep_matrix) * layout.matrices;
  memcpy(arguments.bytes + head, op.body + sizeof(ListMatrix) * layout.matrices, layout.tail);
  const findep_command command{op.code, static_cast<uint32_t>(head + layout.tail), arguments.bytes};
  device_.run(t.stream, command);
}

void Pipeline::transfer(const ListOp& op) {
  transfers_.clear();
  for (uint32_t i = 0; i < TaskList::parts(op); ++i) {
    const ListPart p = TaskList::part(op, i);
    transfers_.push_back(Transfer{p.peer, static_cast<char*>(addresses_[p.buffer]) + p.offset, p.bytes});
  }
  comm_.group(TaskList::channel(op), op.code == kOpSend, transfers_.data(), static_cast<uint32_t>(transfers_.size()));
}

void Pipeline::wait(int64_t timeout_microseconds) {
  if (!pending_) return;
  pending_ = false;
  const int64_t since = clock_.now_microseconds();
  try {
    while (!device_.happened(kEndEvent)) poll(since, timeout_microseconds);
  } catch (...) {
    timed_ = 0;
    // Kernels of a transfer whose peer is gone would otherwise run for ever.
    give_up();
    throw;
  }
}

void Pipeline::times(findep_task_time* times, uint64_t count) {
  FINDEP_REQUIRE(!pending_, "the list still runs; wait for it first");
  FINDEP_REQUIRE(timed_ > 0, "the last list did not ask for times, or it failed");
  FINDEP_REQUIRE(count == timed_ && times != nullptr, "room for %llu times; the last list has %u tasks",
                 static_cast<unsigned long long>(count), timed_);
  for (uint32_t i = 0; i < timed_; ++i) {
    times[i] = findep_task_time{device_.nanoseconds(kBeginStamp, start_stamp(i)), device_.nanoseconds(kBeginStamp, end_stamp(i))};
  }
}

void Pipeline::poll(int64_t since, int64_t timeout_microseconds) {
  comm_.poll();
  if (cancelled_.load()) FINDEP_FAIL(FINDEP_CANCELLED, "the step was aborted");
  const int64_t elapsed = clock_.now_microseconds() - since;
  if (elapsed > timeout_microseconds) {
    FINDEP_FAIL(FINDEP_TIMED_OUT, "the step has not ended within %lld ms: a peer does not take part or the device hangs",
                static_cast<long long>(timeout_microseconds / 1000));
  }
  clock_.sleep_microseconds(kPollMicroseconds);
}

}  // namespace findep
