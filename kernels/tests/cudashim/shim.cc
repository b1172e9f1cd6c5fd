// SPDX-License-Identifier: Apache-2.0
//
// Fibers, barriers and the runtime's functions of the model in cuda_runtime.h.

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_shim {

void* dynamic_shared = nullptr;
size_t dynamic_shared_bytes = 0;
uint64_t epoch = 1;
uint16_t running_thread = 0;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kWarpScratch = 2 * 16 * 16;  // floats
constexpr size_t kStack = 64 * 1024;
constexpr int64_t kMemory = int64_t{4} << 30;

// Threads that wait for `expected` of them. The generation tells a thread that
// all have come from one that only some have.
struct Barrier {
  unsigned expected = 0, arrived = 0;
  uint64_t generation = 0;
};

// A fiber begins with a context of its own and from then on switches by jumps,
// which save no signal mask and so need no system call.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<char[]> stack;
  dim3 thread;
  bool done = false;  // with the current block
};

struct Block {
  const std::function<void()>* kernel = nullptr;
  jmp_buf scheduler;
  std::vector<Fiber> fibers;
  Fiber* running = nullptr;
  Barrier all;
  std::vector<Barrier> warps;
  std::vector<uint64_t> exchanged;  // a place per thread
  std::vector<float> matrices;      // two per warp
  uint64_t steps = 0;               // barriers left and threads finished
  std::string failure;              // the first, empty if none
};


std::mutex launches;
Block* block = nullptr;
std::string failed = "see the shim";  // why the last launch did

#if defined(__SANITIZE_ADDRESS__)
// The address sanitizer has to be told of each switch of stacks. The scheduler's
// stack is learned when a fiber is first there.
const void* scheduler_bottom = nullptr;
size_t scheduler_size = 0;
void leave(void** fake, const void* bottom, size_t size) { __sanitizer_start_switch_fiber(fake, bottom, size); }
void arrive(void* fake, const void** bottom, size_t* size) { __sanitizer_finish_switch_fiber(fake, bottom, size); }
#else
const void* scheduler_bottom = nullptr;
size_t scheduler_size = 0;
void leave(void**, const void*, size_t) {}
void arrive(void*, const void**, size_t*) {}
#endif

void yield() {
  void* fake = nullptr;
  leave(&fake, scheduler_bottom, scheduler_size);
  if (_setjmp(block->running->place) == 0) _longjmp(block->scheduler, 1);
  arrive(fake, &scheduler_bottom, &scheduler_size);
}

void resume(Fiber& f) {
  void* fake = nullptr;
  leave(&fake, f.stack.get(), kStack);
  if (_setjmp(block->scheduler) == 0) {
    if (f.begun) _longjmp(f.place, 1);
    f.begun = true;
    setcontext(&f.context);
  }
  arrive(fake, nullptr, nullptr);
}

void wait(Barrier& barrier) {
  const uint64_t generation = barrier.generation;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    ++block->steps;
    return;
  }
  while (barrier.generation == generation) yield();
}

// Runs its thread's part of one block after the other.
void enter() {
  arrive(nullptr, &scheduler_bottom, &scheduler_size);
  for (;;) {
    (*block->kernel)();
    block->running->done = true;
    ++block->steps;
    yield();
  }
}

void prepare(Block& b, dim3 size) {
  const unsigned threads = size.x * size.y * size.z;
  b.fibers.resize(threads);
  b.exchanged.assign(threads, 0);
  b.matrices.assign((threads + kWarp - 1) / kWarp * kWarpScratch, 0);
  b.warps.assign((threads + kWarp - 1) / kWarp, Barrier{});
  b.all.expected = threads;
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& f = b.fibers[t];
    f.stack.reset(new char[kStack]);
    f.thread = dim3(t % size.x, t / size.x % size.y, t / size.x / size.y);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
    ++b.warps[t / kWarp].expected;
  }
}

// Runs one block; false if some threads wait for others that have ended.
bool run(Block& b, std::mt19937& random) {
  for (Fiber& f : b.fibers) f.done = false;
  std::vector<size_t> order(b.fibers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t left = b.fibers.size(); left > 0;) {
    const uint64_t before = b.steps;
    std::shuffle(order.begin(), order.end(), random);
    left = 0;
    for (size_t i : order) {
      Fiber& f = b.fibers[i];
      if (f.done) continue;
      b.running = &f;
      threadIdx = f.thread;
      running_thread = static_cast<uint16_t>(i + 1);
      resume(f);
      left += f.done ? 0 : 1;
    }
    if (left > 0 && b.steps == before) return false;
  }
  return true;
}

unsigned seed() {
  const char* given = getenv("FINDEP_CUDA_SHIM_SEED");
  return given == nullptr ? 1u : static_cast<unsigned>(strtoul(given, nullptr, 10));
}

bool valid(dim3 grid, dim3 size, size_t shared) {
  const uint64_t threads = uint64_t{size.x} * size.y * size.z;
  return grid.x > 0 && grid.x <= 0x7fffffffu && grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 &&
         threads > 0 && threads <= 1024 && shared <= 48 * 1024;
}

}  // namespace

void sync_block() {
  if (block->all.arrived + 1 == block->all.expected) ++epoch;
  wait(block->all);
}
void sync_warp() { wait(block->warps[threadIdx.x / kWarp]); }
void* exchange(unsigned lane) { return &block->exchanged[threadIdx.x / kWarp * kWarp + lane]; }

float* warp_scratch() { return &block->matrices[threadIdx.x / kWarp * kWarpScratch]; }

void require_together(const void* matrix, unsigned ld, size_t element_bytes) {
  const uint64_t mine = reinterpret_cast<uintptr_t>(matrix) * 4096 + ld;
  if (shuffle(mine, 0) != mine) fail_launch("lanes of a warp load or store different matrices at once");
  if (reinterpret_cast<uintptr_t>(matrix) % 32 != 0) fail_launch("a tensor core's matrix is not aligned to 32 bytes");
  if (ld * element_bytes % 16 != 0) fail_launch("a tensor core's matrix has columns that are not aligned to 16 bytes");
}

void fail_launch(const std::string& why) {
  if (block->failure.empty()) block->failure = why;
}

cudaError_t launch(const std::function<void()>& kernel, dim3 grid, dim3 size, size_t shared) {
  if (!valid(grid, size, shared)) return cudaErrorInvalidConfiguration;
  std::lock_guard<std::mutex> lock(launches);
  static std::mt19937 random(seed());
  Block b;
  b.kernel = &kernel;
  prepare(b, size);
  block = &b;
  gridDim = grid;
  blockDim = size;
  const std::unique_ptr<char[]> memory(new char[shared + 1]);
  dynamic_shared = memory.get();
  dynamic_shared_bytes = shared;
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::shuffle(order.begin(), order.end(), random);
  bool finished = false;
  for (uint64_t i : order) {
    memset(memory.get(), 0xff, shared);  // NaN
    blockIdx = dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                    static_cast<unsigned>(i / grid.x / grid.y));
    finished = run(b, random);
    if (!finished) b.failure = "threads wait at a barrier that others never reach";
    if (!b.failure.empty()) break;
    ++epoch;
  }
  if (!b.failure.empty()) failed = b.failure;
  ++epoch;
  running_thread = 0;
  dynamic_shared = nullptr;
  dynamic_shared_bytes = 0;
  block = nullptr;
  return b.failure.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace cuda_shim

const char* cudaGetErrorName(cudaError_t status) { return status == cudaSuccess ? "cudaSuccess" : "a CUDA error of the shim"; }
const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorLaunchFailure ? cuda_shim::failed.c_str() : "see the shim";
}

cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }

// FINDEP_CUDA_SHIM_FAIL names one call that fails, as it would with a driver that
// is too old, a GPU that the library has no code for, and a GPU that is lost.
static cudaError_t injected(const char* call, cudaError_t status) {
  const char* fail = getenv("FINDEP_CUDA_SHIM_FAIL");
  return fail != nullptr && strcmp(fail, call) == 0 ? status : cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return injected("cudaGetDeviceCount", cudaErrorInsufficientDriver);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp{"shim", static_cast<size_t>(cuda_shim::kMemory)};
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return injected("cudaFuncGetAttributes", cudaErrorNoKernelImageForDevice);
}
cudaError_t cudaEventQuery(cudaEvent_t) { return injected("cudaEventQuery", cudaErrorECCUncorrectable); }

namespace {

std::mutex allocations_lock;
std::map<uintptr_t, size_t> allocations;

}  // namespace

bool cuda_shim::allocated(const void* data, size_t bytes) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(data);
  std::lock_guard<std::mutex> lock(allocations_lock);
  auto after = allocations.upper_bound(from);
  if (after == allocations.begin()) return false;
  const auto& [start, size] = *--after;
  return bytes <= size && from - start <= size - bytes;
}

// As aligned as a GPU's, and no larger than asked for, so that the address sanitizer
// sees what lies beyond. Of workspaces only the first part becomes garbage: filling
// every stream's would take most of the tests' time.
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (posix_memalign(data, 256, bytes) != 0) return cudaErrorMemoryAllocation;
  memset(*data, 0xab, std::min(bytes, size_t{1} << 20));
  std::lock_guard<std::mutex> lock(allocations_lock);
  allocations[reinterpret_cast<uintptr_t>(*data)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  {
    std::lock_guard<std::mutex> lock(allocations_lock);
    allocations.erase(reinterpret_cast<uintptr_t>(data));
  }
  return free(data), cudaSuccess;
}

cudaError_t cudaMemset(void* data, int value, size_t bytes) { return memset(data, value, bytes), cudaSuccess; }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return memcpy(to, from, bytes), cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

// What runs at once has happened when an event is recorded, so the event takes the
// time itself.
struct cudaShimEvent {
  bool timed, recorded;
  std::chrono::steady_clock::time_point at;
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new cudaShimEvent{(flags & cudaEventDisableTiming) == 0, false, {}};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->recorded = true;
  event->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}
// Nothing is ever captured here, and outside of a capture no record is external.
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return flags == cudaEventRecordDefault ? cudaEventRecord(event, stream) : cudaErrorInvalidValue;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  if (!from->timed || !to->timed || !from->recorded || !to->recorded) return cudaErrorInvalidValue;
  *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return cudaSuccess;
}
