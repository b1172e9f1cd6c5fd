// SPDX-License-Identifier: Apache-2.0
//
// What the files of the CUDA backend share: the handles behind the ABI, the
// meaning of statuses, and the launch of a kernel.
//
// A kernel takes one structure by value. Its file has the kernel, the checks of
// its operation and the launch; it knows raw pointers, sizes and a stream.
//
// Index values (token ids, slots, experts) lie in device memory, where checking
// them would cost a synchronisation. Kernels skip those out of range, so that a
// wrong one cannot corrupt memory or lose the device.

#ifndef FINDEP_CUDA_INTERNAL_H
#define FINDEP_CUDA_INTERNAL_H

#include <cuda_runtime.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "common/operations.h"
#include "cuda/blas.h"
#include "cuda/pool.h"
#include "cuda/product.h"

namespace findep {

// What products do with F32 activations whose weights have 16 bits.
enum class Activations {
  kRounded,  // round them to the weights' type, as frameworks that serve such models do
  kExact,    // keep all their bits: BF16 weights by three products of BF16, F16 on the CUDA cores
};

// Pieces of BF16 that hold an F32.
constexpr int kExactPieces = 3;

}  // namespace findep

struct findep_device {
  int index = 0;
  int64_t memory_bytes = 0;
  char name[128] = {};
  std::atomic<int64_t> objects{0};
  findep::Activations activations = findep::Activations::kRounded;
  std::unique_ptr<findep::LtAlgorithms> algorithms;
  // What pool_reserve took; buffers are cut from it while it is there.
  std::unique_ptr<findep::MemoryPool> pool;
  void* pool_memory = nullptr;
};

struct findep_buffer {
  findep_device* device;
  void* data;
  int64_t bytes;
  bool pooled;
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
  // Of its own, so that products on several streams neither wait for each other
  // nor change each other's results: cuBLASLt's, and activations in 16 bits. NULL on
  // streams that run no products.
  void* workspace = nullptr;
  void* narrowed = nullptr;
  bool pooled = false;  // both are of the device's pool
  std::string error;
};

namespace findep {

// Every status of CUDA and cuBLASLt goes through these.
void check_cuda(cudaError_t status, const char* what, const char* file, int line);
void check_blas(cublasStatus_t status, const char* what, const char* file, int line);

#define FINDEP_CUDA(call) ::findep::check_cuda((call), #call, ::findep::basename_of(__FILE__), __LINE__)
#define FINDEP_BLAS(call) ::findep::check_blas((call), #call, ::findep::basename_of(__FILE__), __LINE__)

// Makes a stream, freed by the table's stream_free. One for products takes
// stream_bytes of the pool where there is one.
findep_stream* make_stream(findep_device& device, bool products);

// Makes the device current on the calling thread: the current device belongs to
// the thread, and callers change threads between calls.
void use(const findep_device& device);

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

}  // namespace findep

#endif  // FINDEP_CUDA_INTERNAL_H
