// SPDX-License-Identifier: Apache-2.0
//
// What the files of the CPU backend share: the handles behind the ABI, failure
// by exception inside and by status outside, and checked views of arguments.

#ifndef FINDEP_CPU_INTERNAL_H
#define FINDEP_CPU_INTERNAL_H

#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "common/hd.h"
#include "cpu/pool.h"
#include "findep/backend.h"

struct findep_device {
  int64_t memory_bytes = 0;
  std::atomic<int64_t> used_bytes{0};
  std::atomic<int64_t> objects{0};
};

struct findep_buffer {
  findep_device* device;
  void* data;
  int64_t bytes;
  int64_t mapped_bytes;
};

struct findep_event {
  findep_device* device;
  std::mutex mutex;
  std::condition_variable changed;
  bool recorded = false;
  bool cancelled = false;
};

// A stream runs every operation at once on the thread that issues it, with the
// help of its pool.
struct findep_stream {
  findep_stream(findep_device* d, int threads) : device(d), pool(threads), scratch(threads) {}

  findep_device* device;
  findep::Pool pool;
  // One per worker of the pool; kept between operations to spare page faults.
  std::vector<std::vector<float>> scratch;
  std::string error;
};

namespace findep {

// A failure on its way to the ABI.
struct Failure {
  findep_status status;
  std::string text;
};

[[noreturn]] void fail(findep_status status, const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 4, 5)));

// The basename keeps build paths out of messages.
constexpr const char* basename_of(const char* path) {
  const char* name = path;
  for (const char* p = path; *p != 0; ++p) {
    if (*p == '/') name = p + 1;
  }
  return name;
}

#define FINDEP_FAIL(status, ...) ::findep::fail(status, ::findep::basename_of(__FILE__), __LINE__, __VA_ARGS__)
#define FINDEP_REQUIRE(condition, ...) \
  do {                                 \
    if (!(condition)) FINDEP_FAIL(FINDEP_INVALID_ARGUMENT, __VA_ARGS__); \
  } while (0)

// Runs body and turns whatever it throws into a status and a text.
template <typename Body>
findep_status guarded(std::string* text, Body body) noexcept {
  try {
    try {
      body();
      return FINDEP_OK;
    } catch (const Failure& failure) {
      *text = failure.text;
      return failure.status;
    } catch (const std::bad_alloc&) {
      *text = "out of host memory";
      return FINDEP_OUT_OF_MEMORY;
    } catch (const std::exception& e) {
      *text = std::string("internal: ") + e.what();
      return FINDEP_INTERNAL;
    }
  } catch (...) {
    // Even the text could not be made.
    return FINDEP_OUT_OF_MEMORY;
  }
}

// Runs an operation on a stream.
template <typename Args, typename Body>
findep_status on_stream(findep_stream* stream, const Args* args, Body body) noexcept {
  if (stream == nullptr) return FINDEP_INVALID_ARGUMENT;
  return guarded(&stream->error, [&] {
    FINDEP_REQUIRE(args != nullptr, "the arguments are NULL");
    body(*stream, *args);
  });
}

// Sizes beyond this would make products of two and sums of those overflow.
constexpr int64_t kMaxSize = int64_t{1} << 30;

// A checked matrix of T.
template <typename T>
struct View {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  T* row(int64_t r) const { return data + r * stride; }
  // The first column as a vector.
  Column<T> column() const { return Column<T>{data, stride}; }
  Column<const T> const_column() const { return Column<const T>{data, stride}; }
};

// A checked matrix of a weight type.
struct Weight {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  findep_dtype dtype = FINDEP_F32;

  // The same weight from row r on.
  Weight from(int64_t r) const;
};

View<float> f32(const char* name, const findep_matrix& m);
View<int32_t> i32(const char* name, const findep_matrix& m);
Weight weight(const char* name, const findep_matrix& m);

// Vectors of at least `rows` elements.
View<float> f32_vector(const char* name, const findep_matrix& m, int64_t rows);
View<int32_t> i32_vector(const char* name, const findep_matrix& m, int64_t rows);

void require_size(const char* name, int64_t value, int64_t least);
void require_shape(const char* name, int64_t rows, int64_t cols, int64_t want_rows, int64_t want_cols);
void require_at_least(const char* name, int64_t rows, int64_t cols, int64_t min_rows, int64_t min_cols);
// Index i of `name` must be in [0, limit).
void require_index(const char* name, int64_t i, int64_t value, int64_t limit);
// The first n+1 elements must begin with 0, not decrease and end by limit;
// returns the last.
int64_t require_starts(const char* name, const View<int32_t>& v, int64_t n, int64_t limit);

findep_status embed(findep_stream* stream, const findep_embed_args* args);
findep_status rmsnorm(findep_stream* stream, const findep_rmsnorm_args* args);
findep_status matmul(findep_stream* stream, const findep_matmul_args* args);
findep_status head_matmul(findep_stream* stream, const findep_head_matmul_args* args);
findep_status rope(findep_stream* stream, const findep_rope_args* args);
findep_status scatter_rows(findep_stream* stream, const findep_rows_args* args);
findep_status gather_rows(findep_stream* stream, const findep_rows_args* args);
findep_status combine_rows(findep_stream* stream, const findep_rows_args* args);
findep_status attention(findep_stream* stream, const findep_attention_args* args);
findep_status router(findep_stream* stream, const findep_router_args* args);
findep_status dispatch(findep_stream* stream, const findep_dispatch_args* args);
findep_status group_experts(findep_stream* stream, const findep_group_experts_args* args);
findep_status expert_mlp(findep_stream* stream, const findep_expert_mlp_args* args);
findep_status swiglu(findep_stream* stream, const findep_swiglu_args* args);
findep_status add(findep_stream* stream, const findep_add_args* args);
findep_status submit(findep_stream* stream, const findep_command* commands, int64_t count, int64_t* done);
findep_status event_record(findep_stream* stream, findep_event* event);
findep_status event_wait(findep_stream* stream, findep_event* event);

}  // namespace findep

#endif  // FINDEP_CPU_INTERNAL_H
