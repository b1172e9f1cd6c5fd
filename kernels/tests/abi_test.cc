// SPDX-License-Identifier: Apache-2.0
//
// The CPU backend through its table: what a caller in C may do wrong, task
// lists, events and threads. The arithmetic is the conformance suite's.

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/pool.h"
#include "findep/backend.h"

namespace {

class Backend : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(table->device_open(0, &device, nullptr), FINDEP_OK);
    ASSERT_EQ(table->stream_create(device, 2, &stream, nullptr), FINDEP_OK);
  }
  void TearDown() override {
    table->stream_free(stream);
    findep_error error;
    EXPECT_EQ(table->device_close(device, &error), FINDEP_OK) << error.message;
  }

  static findep_matrix matrix(std::vector<float>& v, int64_t rows, int64_t cols) {
    return findep_matrix{v.data(), rows, cols, cols, FINDEP_F32, 0};
  }

  const findep_backend* table = findep_backend_cpu();
  findep_device* device = nullptr;
  findep_stream* stream = nullptr;
};

TEST_F(Backend, TableIsComplete) {
  EXPECT_EQ(table->abi_version, FINDEP_ABI_VERSION);
  EXPECT_EQ(table->struct_size, sizeof(findep_backend));
  EXPECT_STREQ(table->name, "cpu");
  // From `name` on, the table is pointers; none but those of pipelines may be
  // missing.
  const auto* entries = reinterpret_cast<const void* const*>(&table->name);
  const size_t count = (offsetof(findep_backend, pool_reserve) - offsetof(findep_backend, name)) / sizeof(void*);
  for (size_t i = 0; i < count; ++i) EXPECT_NE(entries[i], nullptr) << "entry " << i;
}

TEST_F(Backend, RefusesNull) {
  findep_error error;
  EXPECT_EQ(table->device_count(nullptr, &error), FINDEP_INVALID_ARGUMENT);
  EXPECT_NE(std::string(error.message).find("device.cc:"), std::string::npos) << error.message;
  EXPECT_EQ(error.status, FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->device_open(0, nullptr, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->device_close(nullptr, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->device_info(device, nullptr, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->buffer_alloc(device, 8, nullptr, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->stream_create(nullptr, 1, &stream, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->event_create(device, nullptr, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->stream_synchronize(nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->matmul(nullptr, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->matmul(stream, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->event_wait(stream, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->copy_in(stream, nullptr, 0, nullptr, 0), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->submit(stream, nullptr, 1, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->submit(nullptr, nullptr, 0, nullptr), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(table->buffer_data(nullptr), nullptr);
  table->buffer_free(nullptr);
  table->event_free(nullptr);
  table->event_cancel(nullptr);
  EXPECT_EQ(table->stream_free(nullptr), FINDEP_OK);
  EXPECT_STREQ(table->stream_error(nullptr), "the stream is NULL");
}

TEST_F(Backend, RefusesRowsAtNull) {
  std::vector<float> v(4);
  findep_add_args args{matrix(v, 2, 2), matrix(v, 2, 2), {nullptr, 2, 2, 2, FINDEP_F32, 0}};
  EXPECT_EQ(table->add(stream, &args), FINDEP_INVALID_ARGUMENT);
  EXPECT_NE(std::string(table->stream_error(stream)).find("b: 2 rows at NULL"), std::string::npos);
}

TEST_F(Backend, RefusesBadViews) {
  std::vector<float> v(4);
  const findep_matrix good = matrix(v, 2, 2);
  for (const findep_matrix& bad : {findep_matrix{v.data(), 2, 2, 1, FINDEP_F32, 0}, findep_matrix{v.data(), -1, 2, 2, FINDEP_F32, 0},
                                   findep_matrix{v.data(), 2, 0, 2, FINDEP_F32, 0}, findep_matrix{v.data(), 2, 2, 2, FINDEP_I32, 0},
                                   findep_matrix{v.data(), INT64_MAX, 2, 2, FINDEP_F32, 0},
                                   findep_matrix{v.data(), 2, 2, INT64_MAX, FINDEP_F32, 0}}) {
    const findep_add_args args{good, good, bad};
    EXPECT_EQ(table->add(stream, &args), FINDEP_INVALID_ARGUMENT);
  }
}

TEST_F(Backend, RefusesUnsupportedWeights) {
  std::vector<float> v(4);
  findep_matmul_args args{matrix(v, 2, 2), matrix(v, 2, 2), matrix(v, 2, 2), 0, 0};
  args.w.dtype = FINDEP_F8E4M3;
  EXPECT_EQ(table->matmul(stream, &args), FINDEP_UNSUPPORTED);
  EXPECT_EQ(table->supports(device, FINDEP_OP_MATMUL, FINDEP_F8E4M3), 0);
  EXPECT_EQ(table->supports(device, FINDEP_OP_COUNT, FINDEP_F32), 0);
}

TEST_F(Backend, SubmitsTaskLists) {
  std::vector<float> a{1, 2}, b{10, 20}, c(2);
  findep_event* event = nullptr;
  ASSERT_EQ(table->event_create(device, &event, nullptr), FINDEP_OK);
  const findep_add_args first{matrix(c, 1, 2), matrix(a, 1, 2), matrix(b, 1, 2)};
  const findep_add_args second{matrix(c, 1, 2), matrix(c, 1, 2), matrix(c, 1, 2)};
  std::vector<findep_command> list{{FINDEP_OP_ADD, sizeof(first), &first},
                                   {FINDEP_COMMAND_RECORD, 0, event},
                                   {FINDEP_COMMAND_WAIT, 0, event},
                                   {FINDEP_OP_ADD, sizeof(second), &second}};
  int64_t done = -1;
  EXPECT_EQ(table->submit(stream, list.data(), 4, &done), FINDEP_OK);
  EXPECT_EQ(done, 4);
  EXPECT_EQ(c, (std::vector<float>{22, 44}));
  list[2] = {FINDEP_OP_ADD, sizeof(first) - 1, &first};
  EXPECT_EQ(table->submit(stream, list.data(), 4, &done), FINDEP_INVALID_ARGUMENT);
  EXPECT_EQ(done, 2);
  list[2] = {999, 0, nullptr};
  EXPECT_EQ(table->submit(stream, list.data(), 4, &done), FINDEP_UNSUPPORTED);
  table->event_free(event);
}

TEST_F(Backend, SubmitKnowsEveryOperation) {
  for (findep_op op = 0; op < FINDEP_OP_COUNT; ++op) {
    const findep_command command{op, 1, nullptr};  // no structure has one byte
    EXPECT_EQ(table->submit(stream, &command, 1, nullptr), FINDEP_INVALID_ARGUMENT) << op;
  }
}

TEST_F(Backend, CloseInUseFails) {
  findep_buffer* buffer = nullptr;
  ASSERT_EQ(table->buffer_alloc(device, 100, &buffer, nullptr), FINDEP_OK);
  findep_error error;
  EXPECT_EQ(table->device_close(device, &error), FINDEP_INVALID_ARGUMENT);
  table->buffer_free(buffer);
}

// Two streams take turns at one value, ordered by events alone.
TEST_F(Backend, ConcurrentStreamsTakeTurns) {
  constexpr size_t kTurns = 40;
  findep_stream* other = nullptr;
  ASSERT_EQ(table->stream_create(device, 1, &other, nullptr), FINDEP_OK);
  std::vector<findep_event*> events(kTurns);
  for (findep_event*& e : events) ASSERT_EQ(table->event_create(device, &e, nullptr), FINDEP_OK);
  std::vector<float> total(64), one(64, 1);
  const findep_add_args twice{matrix(total, 1, 64), matrix(total, 1, 64), matrix(total, 1, 64)};
  const findep_add_args plus_one{matrix(total, 1, 64), matrix(total, 1, 64), matrix(one, 1, 64)};
  auto take = [&](findep_stream* s, size_t first) {
    for (size_t i = first; i < kTurns; i += 2) {
      if (i > 0) {
        EXPECT_EQ(table->event_wait(s, events[i - 1]), FINDEP_OK);
      }
      EXPECT_EQ(table->add(s, first == 0 ? &twice : &plus_one), FINDEP_OK);
      EXPECT_EQ(table->event_record(s, events[i]), FINDEP_OK);
    }
  };
  std::thread a([&] { take(stream, 0); }), b([&] { take(other, 1); });
  a.join();
  b.join();
  EXPECT_EQ(total, std::vector<float>(64, (1 << kTurns / 2) - 1));
  for (findep_event* e : events) table->event_free(e);
  table->stream_free(other);
}

TEST_F(Backend, ConcurrentCancelWakes) {
  findep_event* event = nullptr;
  ASSERT_EQ(table->event_create(device, &event, nullptr), FINDEP_OK);
  findep_status status = FINDEP_OK;
  std::thread waiter([&] { status = table->event_wait(stream, event); });
  table->event_cancel(event);
  waiter.join();
  EXPECT_EQ(status, FINDEP_CANCELLED);
  table->event_free(event);
}

// Streams with helpers of their own multiply at once.
TEST_F(Backend, ConcurrentProducts) {
  constexpr int64_t n = 40, in = 300, out = 330;
  std::vector<float> x(n * in, 1), w(out * in, 2);
  std::vector<std::vector<float>> results(4, std::vector<float>(n * out));
  std::vector<std::thread> threads;
  for (std::vector<float>& y : results) {
    threads.emplace_back([&] {
      findep_stream* s = nullptr;
      ASSERT_EQ(table->stream_create(device, 3, &s, nullptr), FINDEP_OK);
      const findep_matmul_args args{matrix(y, n, out), matrix(x, n, in), matrix(w, out, in), 0, 0};
      for (int i = 0; i < 5; ++i) EXPECT_EQ(table->matmul(s, &args), FINDEP_OK);
      table->stream_free(s);
    });
  }
  for (std::thread& t : threads) t.join();
  for (const std::vector<float>& y : results) EXPECT_EQ(y, std::vector<float>(n * out, 2 * in));
}

TEST(Pool, ConcurrentWorkIsDoneOnce) {
  findep::Pool pool(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> counts(37);
    pool.run(37, true, [&](int64_t i, int worker) {
      ASSERT_GE(worker, 0);
      ASSERT_LT(worker, 4);
      ++counts[static_cast<size_t>(i)];
    });
    for (const auto& c : counts) ASSERT_EQ(c.load(), 1);
  }
}

TEST(Pool, ConcurrentFailureReachesTheCaller) {
  findep::Pool pool(3);
  for (int round = 0; round < 50; ++round) {
    EXPECT_THROW(pool.run(20, true, [](int64_t i, int) { if (i == 7) throw std::runtime_error("seven"); }), std::runtime_error);
    std::atomic<int> sum{0};
    pool.run(5, true, [&](int64_t i, int) { sum += static_cast<int>(i); });
    EXPECT_EQ(sum.load(), 10);
  }
}

}  // namespace
