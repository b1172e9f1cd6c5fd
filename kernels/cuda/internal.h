// SPDX-License-Identifier: Apache-2.0
//
// What the files of the CUDA backend share: the handles behind the ABI, failure
// by exception inside and by status outside, checked views of arguments, and
// the launch of a kernel.
//
// A kernel takes one structure by value. Its file has the kernel, the checks of
// its operation and the launch; it knows raw pointers, sizes and a stream.
//
// Index values (token ids, slots, experts) lie in device memory, where checking
// them would cost a synchronisation. Kernels skip those out of range, so that a
// wrong one cannot corrupt memory or lose the device.

#ifndef FINDEP_CUDA_INTERNAL_H
#define FINDEP_CUDA_INTERNAL_H

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <string>

#include "common/hd.h"
#include "findep/backend.h"

struct findep_device {
  int index = 0;
  int64_t memory_bytes = 0;
  char name[128] = {};
  std::atomic<int64_t> objects{0};
};

struct findep_buffer {
  findep_device* device;
  void* data;
  int64_t bytes;
};

struct findep_event {
  findep_device* device = nullptr;
  cudaEvent_t event = nullptr;
  std::mutex mutex;
  std::condition_variable changed;
  bool recorded = false;
  bool cancelled = false;
};

struct findep_stream {
  findep_device* device = nullptr;
  cudaStream_t stream = nullptr;
  // A handle and a workspace of its own: products on several streams neither
  // wait for each other nor change each other's results.
  cublasHandle_t blas = nullptr;
  void* workspace = nullptr;
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

// Every status of CUDA and cuBLAS goes through these.
void check_cuda(cudaError_t status, const char* what, const char* file, int line);
void check_blas(cublasStatus_t status, const char* what, const char* file, int line);

#define FINDEP_CUDA(call) ::findep::check_cuda((call), #call, ::findep::basename_of(__FILE__), __LINE__)
#define FINDEP_BLAS(call) ::findep::check_blas((call), #call, ::findep::basename_of(__FILE__), __LINE__)

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

// Makes the device current on the calling thread: the current device belongs to
// the thread, and callers change threads between calls.
void use(const findep_device& device);

// Runs an operation on a stream.
template <typename Args, typename Body>
findep_status on_stream(findep_stream* stream, const Args* args, Body body) noexcept {
  if (stream == nullptr) return FINDEP_INVALID_ARGUMENT;
  return guarded(&stream->error, [&] {
    FINDEP_REQUIRE(args != nullptr, "the arguments are NULL");
    use(*stream->device);
    body(*stream, *args);
  });
}

// Sizes beyond this would make products of two and sums of those overflow.
constexpr int64_t kMaxSize = int64_t{1} << 30;

// A checked matrix of T in device memory.
template <typename T>
struct View {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  FINDEP_HD T* row(int64_t r) const { return data + r * stride; }
  // The first column as a vector.
  FINDEP_HD Column<T> column() const { return Column<T>{data, stride}; }
  FINDEP_HD Column<const T> const_column() const { return Column<const T>{data, stride}; }
};

// A checked matrix of a weight type.
struct Weight {
  const void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  findep_dtype dtype = FINDEP_F32;
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

// Grids are at most 2^31 - 1 blocks along x; kernels with more work stride.
constexpr int64_t kMaxGrid = int64_t{1} << 30;

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > kMaxGrid ? kMaxGrid : blocks);
}

// Shared memory that a kernel gets without asking for more.
constexpr int64_t kSharedBytes = 48 * 1024;

template <typename Params>
void launch(findep_stream& stream, void (*kernel)(Params), dim3 grid, dim3 block, const Params& params,
            size_t shared = 0) {
#if defined(FINDEP_CUDA_SHIM)
  FINDEP_CUDA(cuda_shim::launch([&] { kernel(params); }, grid, block, shared));
  (void)stream;
#else
  void* arguments[] = {const_cast<Params*>(&params)};
  FINDEP_CUDA(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared, stream.stream));
#endif
}

// Fails where the library holds no code for the current device.
void require_kernel_image(const findep_device& device);

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

#endif  // FINDEP_CUDA_INTERNAL_H
