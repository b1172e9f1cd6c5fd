// SPDX-License-Identifier: Apache-2.0
//
// A model of CUDA that runs on the CPU, as far as kernels/cuda needs it. With
// -DFINDEP_CUDA_SHIM and this folder first among the includes, g++ compiles the
// kernels and their host code unchanged into a backend for tests.
//
// What it models: blocks one after the other, in a shuffled order; the threads
// of a block as fibers that switch at barriers and warp shuffles, resumed in an
// order that is shuffled too (FINDEP_CUDA_SHIM_SEED picks another), so that
// results which depend on the order of threads differ from the reference; a
// barrier that some threads of a block never reach is an error; shared memory
// given at launch starts as NaN, device memory as garbage, each in an allocation
// of its own, which the address sanitizer guards.
//
// What it does not: streams and events run at once; memory coalescing, bank
// conflicts, registers and time; threads run between two barriers without
// interleaving; expf and exp are the host's.

#ifndef FINDEP_CUDASHIM_CUDA_RUNTIME_H
#define FINDEP_CUDASHIM_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <string>
#include <type_traits>

#define __global__
#define __device__
#define __launch_bounds__(threads)
// One copy serves all blocks, which run one after the other.
#define __shared__ static
#define FINDEP_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(::cuda_shim::dynamic_shared)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};

struct float4 {
  float x, y, z, w;
};

inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }

// Of the running fiber; launches are serialised.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorMemoryAllocation,
  cudaErrorInvalidConfiguration,
  cudaErrorNoDevice,
  cudaErrorInvalidDevice,
  cudaErrorInsufficientDriver,
  cudaErrorSystemDriverMismatch,
  cudaErrorCompatNotSupportedOnDevice,
  cudaErrorNoKernelImageForDevice,
  cudaErrorUnsupportedPtxVersion,
  cudaErrorNotSupported,
  cudaErrorIllegalAddress,
  cudaErrorIllegalInstruction,
  cudaErrorMisalignedAddress,
  cudaErrorInvalidAddressSpace,
  cudaErrorInvalidPc,
  cudaErrorHardwareStackError,
  cudaErrorLaunchFailure,
  cudaErrorLaunchTimeout,
  cudaErrorECCUncorrectable,
  cudaErrorNvlinkUncorrectable,
  cudaErrorContained,
  cudaErrorAssert,
  cudaErrorDevicesUnavailable,
  cudaErrorNotReady
};

typedef struct cudaShimStream* cudaStream_t;
typedef struct cudaShimEvent* cudaEvent_t;

enum { cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventDisableTiming = 2 };
enum { cudaEventRecordDefault = 0, cudaEventRecordExternal = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
};

struct cudaFuncAttributes {
  int maxThreadsPerBlock;
};

const char* cudaGetErrorName(cudaError_t status);
const char* cudaGetErrorString(cudaError_t status);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaMalloc(void** data, size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaMemset(void* data, int value, size_t bytes);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaEventQuery(cudaEvent_t event);

// What runs at once cannot be captured.
typedef struct cudaShimGraph* cudaGraph_t;
typedef struct cudaShimGraphExec* cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return cudaErrorNotSupported; }
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return cudaErrorNotSupported; }
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long) { return cudaErrorNotSupported; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaErrorNotSupported; }
inline cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }

namespace cuda_shim {

extern void* dynamic_shared;
extern size_t dynamic_shared_bytes;

// For the race detector (races.cc): a number that every barrier of a block and
// every block's end raises; the running thread's number in its block from 1, or
// 0 while no kernel runs; and a way to fail the launch.
extern uint64_t epoch;
extern uint16_t running_thread;
void fail_launch(const std::string& why);

// Whether the bytes lie within one allocation of device memory.
bool allocated(const void* data, size_t bytes);

// Runs kernel once per thread of the grid.
cudaError_t launch(const std::function<void()>& kernel, dim3 grid, dim3 block, size_t shared);

// Every thread of the block, or of the warp, waits for the others.
void sync_block();
void sync_warp();
// The place through which a lane of the warp of the running thread shows a value.
void* exchange(unsigned lane);

// For the model of tensor cores (mma.h): room for two of the running warp's
// matrices, and a check that all its lanes are here with the same address and
// leading dimension, the address aligned to 32 bytes and the columns to 16.
float* warp_scratch();
void require_together(const void* matrix, unsigned ld, size_t element_bytes);

template <typename T>
T shuffle(T value, unsigned lane) {
  static_assert(sizeof(T) <= 8, "shuffles move up to eight bytes");
  memcpy(exchange(threadIdx.x % 32), &value, sizeof(T));
  sync_warp();
  T result;
  memcpy(&result, exchange(lane), sizeof(T));
  sync_warp();
  return result;
}

}  // namespace cuda_shim

inline uint32_t __float_as_uint(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof(bits));
  return bits;
}

inline float __uint_as_float(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof(v));
  return v;
}

inline void __syncthreads() { cuda_shim::sync_block(); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_shim::shuffle(value, (threadIdx.x % 32) ^ static_cast<unsigned>(mask));
}

// Lanes below `delta` keep their own value.
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return cuda_shim::shuffle(value, lane < delta ? lane : lane - delta);
}

#endif  // FINDEP_CUDASHIM_CUDA_RUNTIME_H
