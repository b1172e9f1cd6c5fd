// SPDX-License-Identifier: Apache-2.0
//
// The pipeline on the recording device: graphs that come again, what happens
// when something fails, and that nothing waits for ever. The order of what it
// enqueues is examined in Go, against the schedule itself.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "cuda/pipeline.h"
#include "tests/recorder/recorder.h"

namespace findep {
namespace {

using Bytes = std::vector<uint8_t>;

template <typename T>
void append(Bytes* to, const T& value) {
  const auto* from = reinterpret_cast<const uint8_t*>(&value);
  to->insert(to->end(), from, from + sizeof(T));
}

// A list of an attention rank: one operation, a send that waits for it, and a
// receive that waits for the send.
Bytes small_list(uint32_t flags, uint32_t bucket) {
  const uint32_t group = 8 + 8 + sizeof(ListPart);
  const uint32_t add = 8 + 3 * sizeof(ListMatrix);
  ListHeader h{kListMagic, kListVersion, 0, 1, 3, 2, 3, 0, 2, flags, bucket, 42, 0};
  h.bytes = sizeof(h) + 8 + 3 * sizeof(ListTask) + 8 + add + 2 * group;
  Bytes list;
  append(&list, h);
  append(&list, uint64_t{1024});
  append(&list, ListTask{kTaskAttention, kStreamCompute, 0, 0, 0, 0, 0, 0, 0, 1});
  append(&list, ListTask{kTaskA2E, kStreamA2E, 0, 0, 0, 0, 0, 1, 1, 1});
  append(&list, ListTask{kTaskE2A, kStreamE2A, 0, 0, 0, 0, 1, 1, 2, 1});
  append(&list, uint32_t{0});
  append(&list, uint32_t{1});
  append(&list, uint32_t{FINDEP_OP_ADD});
  append(&list, add);
  for (int64_t i = 0; i < 3; ++i) append(&list, ListMatrix{0, FINDEP_F32, 16 * i, 2, 4, 4});
  for (const uint32_t code : {kOpSend, kOpReceive}) {
    append(&list, code);
    append(&list, group);
    append(&list, code == kOpSend ? kChannelA2E : kChannelE2A);
    append(&list, uint32_t{1});
    append(&list, ListPart{1, 0, 256, 64});
  }
  return list;
}

class PipelineTest : public testing::Test {
 protected:
  findep_status run(const Bytes& list) {
    return guarded(&error, [&] { pipeline.run(list.data(), list.size(), &buffer, 1); });
  }
  findep_status wait(int64_t microseconds) {
    return guarded(&error, [&] { pipeline.wait(microseconds); });
  }
  // Fails with a status the n-th time that one of the letters comes up.
  void fail_at(const std::string& letters, int n, findep_status status) {
    log.before = [=, left = n](char letter) mutable {
      if (letters.find(letter) != std::string::npos && --left == 0) throw Failure{status, "injected"};
    };
  }
  std::string letters() const {
    std::string all;
    bool begins = true;
    for (const char c : log.text) {
      if (begins) all += c;
      begins = c == '\n';
    }
    return all;
  }

  recorder::Log log;
  recorder::Device device{log};
  recorder::Comm comm{log};
  recorder::Clock clock;
  Pipeline pipeline{device, comm, clock};
  PipelineBuffer buffer{reinterpret_cast<void*>(uint64_t{1} << 40), 1024};
  std::string error;
};

TEST_F(PipelineTest, EnqueuesForkTasksAndJoin) {
  ASSERT_EQ(run(small_list(0, 0)), FINDEP_OK) << error;
  EXPECT_EQ(wait(1000), FINDEP_OK) << error;
  // Fork; task, operation with one write and two reads, record; task, wait,
  // group with a part, record; task, wait, group; two joins; the end.
  EXPECT_EQ(letters(), "RWWTOwrrRTWSpRTWVpRRWWR");
}

TEST_F(PipelineTest, ReplaysAGraphOfTheSameList) {
  for (int i = 0; i < 3; ++i) {
    log.text.clear();
    ASSERT_EQ(run(small_list(kListCapture, 8)), FINDEP_OK) << error;
    ASSERT_EQ(wait(1000), FINDEP_OK) << error;
    EXPECT_EQ(letters(), i == 0 ? "BRWWTOwrrRTWSpRTWVpRRWWELR" : "LR");
  }
  // Another bucket, or the same list elsewhere in memory, is another graph.
  log.text.clear();
  ASSERT_EQ(run(small_list(kListCapture, 16)), FINDEP_OK);
  EXPECT_EQ(letters()[0], 'B');
  ASSERT_EQ(wait(1000), FINDEP_OK);
  log.text.clear();
  buffer.data = reinterpret_cast<void*>(uint64_t{2} << 40);
  ASSERT_EQ(run(small_list(kListCapture, 16)), FINDEP_OK);
  EXPECT_EQ(letters()[0], 'B');
}

TEST_F(PipelineTest, RunsWithoutGraphsWhereThereAreNone) {
  for (int i = 0; i < 2; ++i) {
    log.text.clear();
    fail_at("B", 1, FINDEP_UNSUPPORTED);
    ASSERT_EQ(run(small_list(kListCapture, 8)), FINDEP_OK) << error;
    EXPECT_EQ(wait(1000), FINDEP_OK) << error;
    EXPECT_EQ(letters(), "RWWTOwrrRTWSpRTWVpRRWWR");
  }
}

// The time is noted around each task, behind its waits and before its record, on
// the device alone: the host asks for nothing until it waits for the end.
TEST_F(PipelineTest, NotesTimesWithoutWaiting) {
  int asked = 0;
  log.before = [&](char letter) { asked += letter == '?' || letter == 'N' ? 1 : 0; };
  ASSERT_EQ(run(small_list(kListTimed, 0)), FINDEP_OK) << error;
  EXPECT_EQ(letters(), "CRWWTCOwrrCRTWCSpCRTWCVpCRRWWR");
  EXPECT_EQ(asked, 0);
  findep_task_time times[3];
  EXPECT_EQ(guarded(&error, [&] { pipeline.times(times, 3); }), FINDEP_INVALID_ARGUMENT) << "the list runs";
  ASSERT_EQ(wait(1000), FINDEP_OK) << error;
  EXPECT_EQ(guarded(&error, [&] { pipeline.times(times, 2); }), FINDEP_INVALID_ARGUMENT);
  EXPECT_NE(error.find("3 tasks"), std::string::npos) << error;
  ASSERT_EQ(guarded(&error, [&] { pipeline.times(times, 3); }), FINDEP_OK) << error;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(times[i].start, (1 + 2 * i) * 1000);
    EXPECT_EQ(times[i].end, (2 + 2 * i) * 1000);
  }
  ASSERT_EQ(run(small_list(0, 0)), FINDEP_OK) << error;
  ASSERT_EQ(wait(1000), FINDEP_OK) << error;
  EXPECT_EQ(guarded(&error, [&] { pipeline.times(times, 3); }), FINDEP_INVALID_ARGUMENT) << "this list has no times";
}

// A list with times and the same without have a graph each, and replays note times.
TEST_F(PipelineTest, GraphsWithTimesAreTheirOwn) {
  const std::string plain = "RWWTOwrrRTWSpRTWVpRRWW", stamped = "CRWWTCOwrrCRTWCSpCRTWCVpCRRWW";
  findep_task_time times[3];
  for (int i = 0; i < 2; ++i) {
    for (const uint32_t flags : {kListCapture, kListCapture | kListTimed}) {
      log.text.clear();
      ASSERT_EQ(run(small_list(flags, 8)), FINDEP_OK) << error;
      ASSERT_EQ(wait(1000), FINDEP_OK) << error;
      const bool timed = flags != kListCapture;
      EXPECT_EQ(letters(), i > 0 ? "LR" : "B" + (timed ? stamped : plain) + "ELR");
      EXPECT_EQ(guarded(&error, [&] { pipeline.times(times, 3); }) == FINDEP_OK, timed);
    }
  }
}

TEST_F(PipelineTest, AFailedStepHasNoTimes) {
  device.end_after(1 << 30);
  ASSERT_EQ(run(small_list(kListTimed, 0)), FINDEP_OK);
  ASSERT_EQ(wait(10), FINDEP_TIMED_OUT);
  findep_task_time times[3];
  EXPECT_EQ(guarded(&error, [&] { pipeline.times(times, 3); }), FINDEP_INVALID_ARGUMENT);
}

TEST_F(PipelineTest, KeepsABoundedNumberOfGraphs) {
  const uint32_t kMore = 5;
  for (uint32_t bucket = 0; bucket < Pipeline::kGraphs + kMore; ++bucket) {
    ASSERT_EQ(run(small_list(kListCapture, bucket)), FINDEP_OK) << error;
    ASSERT_EQ(wait(1000), FINDEP_OK);
    // The first one is used again and again, so it is never the one to go.
    ASSERT_EQ(run(small_list(kListCapture, 0)), FINDEP_OK) << error;
    ASSERT_EQ(wait(1000), FINDEP_OK);
  }
  std::string freed;
  for (size_t at = 0; (at = log.text.find("\nF ", at)) != std::string::npos; ++at) freed += log.text.substr(at + 1, log.text.find('\n', at + 1) - at);
  EXPECT_EQ(freed, "F 2\nF 3\nF 4\nF 5\nF 6\n");
}

TEST_F(PipelineTest, RefusesABadListBeforeAnythingIsEnqueued) {
  Bytes list = small_list(0, 0);
  list[4] = 9;
  EXPECT_EQ(run(list), FINDEP_INVALID_ARGUMENT);
  EXPECT_NE(error.find("unknown version of the task list 9"), std::string::npos) << error;
  buffer.bytes = 1000;
  EXPECT_EQ(run(small_list(0, 0)), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(log.text, "");
  buffer.bytes = 1024;
  EXPECT_EQ(run(small_list(0, 0)), FINDEP_OK) << "a refused list leaves the pipeline usable: " << error;
  EXPECT_EQ(run(small_list(0, 0)), FINDEP_INVALID_ARGUMENT) << "the first list still runs";
}

TEST_F(PipelineTest, EndsWithAnErrorWhenTheStepDoesNotEnd) {
  device.end_after(1 << 30);
  ASSERT_EQ(run(small_list(0, 0)), FINDEP_OK);
  EXPECT_EQ(wait(5000), FINDEP_TIMED_OUT);
  EXPECT_NE(error.find("within 5 ms"), std::string::npos) << error;
  EXPECT_TRUE(comm.aborted);
  EXPECT_EQ(run(small_list(0, 0)), FINDEP_CANCELLED) << "an aborted pipeline takes no more lists";
}

TEST_F(PipelineTest, CancelEndsTheWait) {
  device.end_after(1 << 30);
  ASSERT_EQ(run(small_list(0, 0)), FINDEP_OK);
  std::thread other([&] { pipeline.cancel(); });
  other.join();
  EXPECT_EQ(wait(int64_t{1} << 50), FINDEP_CANCELLED);
  EXPECT_TRUE(comm.aborted);
}

// Whatever fails, and wherever, becomes a status; transfers are aborted, so that
// peers notice too.
TEST_F(PipelineTest, EveryFailureHasItsStatus) {
  struct Case {
    const char* where;
    findep_status status;
  };
  for (const Case& c : {Case{"!", FINDEP_COMM_FAILED}, Case{"?", FINDEP_DEVICE_LOST}, Case{"O", FINDEP_NO_KERNEL_IMAGE},
                        Case{"SV", FINDEP_COMM_FAILED}, Case{"RW", FINDEP_DEVICE_LOST}, Case{"B", FINDEP_INTERNAL},
                        Case{"E", FINDEP_OUT_OF_MEMORY}, Case{"L", FINDEP_DEVICE_LOST}, Case{"C", FINDEP_DEVICE_LOST}}) {
    for (int n = 1; n <= 20; ++n) {
      log.text.clear();
      recorder::Device d{log};
      recorder::Comm k{log};
      Pipeline p{d, k, clock};
      d.end_after(4);
      fail_at(c.where, n, c.status);
      const Bytes list = small_list(kListCapture | kListTimed, 1);
      const findep_status status = guarded(&error, [&] {
        p.run(list.data(), list.size(), &buffer, 1);
        p.wait(1000);
      });
      log.before = [](char) {};
      if (status == FINDEP_OK) {
        EXPECT_GT(n, 1) << c.where << " never came up";
        break;
      }
      EXPECT_EQ(status, c.status) << c.where << " " << n;
      EXPECT_EQ(error, "injected");
      const bool began = log.text.find('T') != std::string::npos;
      EXPECT_TRUE(k.aborted || !began) << c.where << " " << n;
      const auto count = [&](char letter) {
        const std::string all = letters();
        return std::count(all.begin(), all.end(), letter);
      };
      EXPECT_EQ(count('B'), count('E') + count('D')) << "a capture was left open: " << c.where << " " << n;
    }
  }
}

}  // namespace
}  // namespace findep
