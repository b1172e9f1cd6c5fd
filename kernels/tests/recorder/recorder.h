// SPDX-License-Identifier: Apache-2.0
//
// A device and a communicator that do nothing but write down, one line each,
// what a pipeline asks of them, and fail when told to.
//
//   T task kind layer micro_batch segment     what follows belongs to this task
//   R stream event | W stream event           record, wait
//   C stream stamp                            the time is noted
//   O stream code                             an operation, and its matrices:
//     r address bytes | w address bytes         first and past-the-last element
//   S channel | V channel                     a group of sends or receives:
//     p peer address bytes                      its parts
//   B stream | E stream graph | L stream graph | F graph | D stream
//                                             capture begun, ended, launched,
//                                             freed, dropped
//   A                                         transfers aborted
//   M address bytes                           memory registered
//
// Addresses are those the caller gave; nothing behind them is touched.

#ifndef FINDEP_TESTS_RECORDER_H
#define FINDEP_TESTS_RECORDER_H

#include <cstdio>
#include <functional>
#include <string>

#include "cuda/comm.h"
#include "cuda/pipeline_device.h"

namespace findep::recorder {

struct Log {
  std::string text;
  // Called before every entry with its letter; may throw.
  std::function<void(char)> before = [](char) {};

  template <typename... Values>
  void add(char letter, Values... values) {
    before(letter);
    text += letter;
    ((text += ' ' + std::to_string(values)), ...);
    text += '\n';
  }
};

class Device : public PipelineDevice {
 public:
  explicit Device(Log& log) : log_(log) {}

  void reserve_events(uint32_t count) override { events_ = count > events_ ? count : events_; }
  void record(uint32_t stream, uint32_t event) override { enqueue('R', stream, event); }
  void wait(uint32_t stream, uint32_t event) override { enqueue('W', stream, event); }
  void run(uint32_t stream, const findep_command& command) override;
  void task(uint32_t index, const ListTask& t) override {
    log_.add('T', index, t.kind, t.layer, t.micro_batch, t.segment);
  }
  void reserve_stamps(uint32_t count) override { stamps_ = count > stamps_ ? count : stamps_; }
  void stamp(uint32_t stream, uint32_t stamp) override {
    FINDEP_REQUIRE(stamp < stamps_, "stamp %u was not reserved; there are %u", stamp, stamps_);
    log_.add('C', stream, stamp);
  }
  // As if each stamp were a microsecond after the one before.
  int64_t nanoseconds(uint32_t from, uint32_t to) override {
    log_.before('N');
    return (int64_t{to} - int64_t{from}) * 1000;
  }
  void capture_begin(uint32_t stream) override { log_.add('B', stream); }
  uint64_t capture_end(uint32_t stream) override {
    log_.add('E', stream, graphs_);
    return graphs_++;
  }
  void capture_drop(uint32_t stream) noexcept override { log_.text += "D " + std::to_string(stream) + '\n'; }
  void graph_launch(uint64_t graph, uint32_t stream) override { log_.add('L', stream, graph); }
  void graph_free(uint64_t graph) noexcept override { log_.text += "F " + std::to_string(graph) + '\n'; }
  bool happened(uint32_t) override {
    log_.before('?');
    return polls_ == 0 || --polls_ == 0;
  }

  // How often happened() says no before it says yes.
  void end_after(int64_t polls) { polls_ = polls; }

 private:
  void enqueue(char letter, uint32_t stream, uint32_t event) {
    FINDEP_REQUIRE(event < events_, "event %u was not reserved; there are %u", event, events_);
    log_.add(letter, stream, event);
  }

  Log& log_;
  uint32_t events_ = 0, stamps_ = 0;
  uint64_t graphs_ = 1;
  int64_t polls_ = 0;
};

class Comm : public Communicator {
 public:
  explicit Comm(Log& log) : log_(log) {}

  void group(uint32_t channel, bool send, const Transfer* parts, uint32_t count) override {
    log_.add(send ? 'S' : 'V', channel);
    for (uint32_t i = 0; i < count; ++i) {
      log_.add('p', parts[i].peer, reinterpret_cast<uintptr_t>(parts[i].data), parts[i].bytes);
    }
  }
  void register_memory(void* data, uint64_t bytes) override {
    log_.add('M', reinterpret_cast<uintptr_t>(data), bytes);
  }
  void poll() override { log_.before('!'); }
  void abort() noexcept override {
    aborted = true;
    log_.text += "A\n";
  }

  bool aborted = false;

 private:
  Log& log_;
};

// A clock that moves only when somebody sleeps.
class Clock : public PipelineClock {
 public:
  int64_t now_microseconds() override { return now_; }
  void sleep_microseconds(int64_t duration) override { now_ += duration; }

 private:
  int64_t now_ = 0;
};

}  // namespace findep::recorder

#endif  // FINDEP_TESTS_RECORDER_H
