// SPDX-License-Identifier: Apache-2.0
//
// Pipelines on CUDA streams, events and graphs, and their entries in the table.

#include "cuda/pipeline_cuda.h"

#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <thread>

#include "cuda/comm_nccl.h"
#include "cuda/internal.h"
#include "cuda/pipeline.h"
#include "cuda/pipeline_ops.h"

namespace findep {

namespace {

class SteadyClock : public PipelineClock {
 public:
  int64_t now_microseconds() override {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  void sleep_microseconds(int64_t duration) override { std::this_thread::sleep_for(std::chrono::microseconds(duration)); }
};

// A stream of the table, freed with its owner.
struct StreamDeleter {
  void operator()(findep_stream* stream) const { cuda_table().stream_free(stream); }
};
using OwnedStream = std::unique_ptr<findep_stream, StreamDeleter>;

class CudaPipelineDevice : public PipelineDevice {
 public:
  explicit CudaPipelineDevice(findep_device& device) : device_(device) {
    // Products run on the compute stream alone.
    for (uint32_t i = 0; i < kStreams; ++i) streams_[i].reset(make_stream(device, i == kStreamCompute));
  }
  ~CudaPipelineDevice() override {
    if (cudaSetDevice(device_.index) != cudaSuccess) return;
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
    for (const cudaEvent_t stamp : stamps_) cudaEventDestroy(stamp);
  }

  void reserve_events(uint32_t count) override { reserve(events_, count, cudaEventDisableTiming); }
  void reserve_stamps(uint32_t count) override { reserve(stamps_, count, cudaEventDefault); }
  void record(uint32_t stream, uint32_t event) override { FINDEP_CUDA(cudaEventRecord(events_[event], cuda(stream))); }
  void wait(uint32_t stream, uint32_t event) override { FINDEP_CUDA(cudaStreamWaitEvent(cuda(stream), events_[event], 0)); }
  // Within a capture only an external record is a node that notes the time at each
  // launch; any other marks a place in the graph and is never seen to happen.
  void stamp(uint32_t stream, uint32_t stamp) override {
    const unsigned flags = capturing_ ? cudaEventRecordExternal : cudaEventRecordDefault;
    FINDEP_CUDA(cudaEventRecordWithFlags(stamps_[stamp], cuda(stream), flags));
  }
  int64_t nanoseconds(uint32_t from, uint32_t to) override {
    float milliseconds = 0;
    FINDEP_CUDA(cudaEventElapsedTime(&milliseconds, stamps_[from], stamps_[to]));
    return llround(double{milliseconds} * 1e6);
  }
  void run(uint32_t stream, const findep_command& command) override {
    findep_stream* s = streams_[stream].get();
    findep_status status;
    switch (command.op) {
      case kOpPack: status = pack(s, static_cast<const PackArgs*>(command.args)); break;
      case kOpUnpack: status = unpack(s, static_cast<const UnpackArgs*>(command.args)); break;
      default: status = submit(s, &command, 1, nullptr);
    }
    if (status != FINDEP_OK) throw Failure{status, s->error};
  }
  void task(uint32_t, const ListTask&) override {}

  void capture_begin(uint32_t stream) override {
    FINDEP_CUDA(cudaStreamBeginCapture(cuda(stream), cudaStreamCaptureModeThreadLocal));
    capturing_ = true;
  }
  uint64_t capture_end(uint32_t stream) override {
    capturing_ = false;
    cudaGraph_t graph = nullptr;
    FINDEP_CUDA(cudaStreamEndCapture(cuda(stream), &graph));
    cudaGraphExec_t ready = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
    cudaGraphDestroy(graph);
    FINDEP_CUDA(status);
    return reinterpret_cast<uintptr_t>(ready);
  }
  void capture_drop(uint32_t stream) noexcept override {
    capturing_ = false;
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(cuda(stream), &graph) == cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
  }
  void graph_launch(uint64_t graph, uint32_t stream) override {
    FINDEP_CUDA(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), cuda(stream)));
  }
  void graph_free(uint64_t graph) noexcept override { cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph)); }

  bool happened(uint32_t event) override {
    const cudaError_t status = cudaEventQuery(events_[event]);
    if (status == cudaErrorNotReady) return false;
    FINDEP_CUDA(status);
    return true;
  }

  cudaStream_t cuda(uint32_t stream) const { return streams_[stream]->stream; }

 private:
  void reserve(std::vector<cudaEvent_t>& list, uint32_t count, unsigned flags) {
    use(device_);
    while (list.size() < count) {
      cudaEvent_t made = nullptr;
      FINDEP_CUDA(cudaEventCreateWithFlags(&made, flags));
      list.push_back(made);
    }
  }

  findep_device& device_;
  std::array<OwnedStream, kStreams> streams_;
  std::vector<cudaEvent_t> events_, stamps_;
  bool capturing_ = false;
};

CommIds ids_of(const findep_pipeline_config& config) {
  CommIds ids;
  FINDEP_REQUIRE(config.ids != nullptr && config.ids_bytes == static_cast<int64_t>(sizeof(ids)), "ids have %lld bytes; they must have %zu",
                 static_cast<long long>(config.ids_bytes), sizeof(ids));
  memcpy(&ids, config.ids, sizeof(ids));
  FINDEP_REQUIRE(ids.magic == CommIds::kMagic, "these are no ids: the magic is %u", ids.magic);
  FINDEP_REQUIRE(config.world >= 2 && config.world <= static_cast<int32_t>(kListMaxWorld) && config.rank >= 0 && config.rank < config.world,
                 "rank %d is not in a world of %d ranks", config.rank, config.world);
  FINDEP_REQUIRE(config.timeout_ms > 0, "the time-out is %lld ms", static_cast<long long>(config.timeout_ms));
  return ids;
}

}  // namespace

}  // namespace findep

// Members are destroyed from the last to the first: graphs before the
// communicators they use, those before their streams.
struct findep_pipeline {
  findep_pipeline(findep_device& d, const findep_pipeline_config& config)
      : device(d),
        streams(d),
        comm(findep::ids_of(config), config.rank, config.world,
             {streams.cuda(findep::kStreamA2E), streams.cuda(findep::kStreamE2A)}, clock, config.timeout_ms * 1000),
        pipeline(streams, comm, clock) {}

  findep_device& device;
  findep::SteadyClock clock;
  findep::CudaPipelineDevice streams;
  findep::NcclCommunicator comm;
  findep::Pipeline pipeline;
  std::vector<findep::PipelineBuffer> buffers;
};

namespace findep {

findep_status pool_reserve(findep_device* device, int64_t bytes, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && bytes >= 0, "device is NULL or %lld bytes are negative", static_cast<long long>(bytes));
    use(*device);
    if (device->pool != nullptr) {
      FINDEP_REQUIRE(device->pool->used() == 0, "%llu bytes of the pool are in use", static_cast<unsigned long long>(device->pool->used()));
      device->pool.reset();
      FINDEP_CUDA(cudaFree(device->pool_memory));
      device->pool_memory = nullptr;
    }
    if (bytes == 0) return;
    const cudaError_t status = cudaMalloc(&device->pool_memory, static_cast<size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      FINDEP_FAIL(FINDEP_MEMORY_EXCEEDED, "the memory model asks for %lld bytes, which %s does not have free", static_cast<long long>(bytes), device->name);
    }
    FINDEP_CUDA(status);
    device->pool = std::make_unique<MemoryPool>(static_cast<uint64_t>(bytes));
  });
}

findep_status pipeline_ids(findep_device* device, void* ids, int64_t* bytes, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && ids != nullptr && bytes != nullptr, "device, ids or bytes is NULL");
    FINDEP_REQUIRE(*bytes >= static_cast<int64_t>(sizeof(CommIds)), "%lld bytes of room; the ids have %zu", static_cast<long long>(*bytes), sizeof(CommIds));
    use(*device);
    const CommIds made = CommIds::make();
    memcpy(ids, &made, sizeof(made));
    *bytes = sizeof(made);
  });
}

findep_status pipeline_open(findep_device* device, const findep_pipeline_config* config, findep_pipeline** pipeline, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && config != nullptr && pipeline != nullptr, "device, config or pipeline is NULL");
    *pipeline = nullptr;
    use(*device);
    auto made = std::make_unique<findep_pipeline>(*device, *config);
    if (device->pool != nullptr) made->comm.register_memory(device->pool_memory, device->pool->bytes());
    *pipeline = made.release();
  });
}

findep_status pipeline_run(findep_pipeline* pipeline, const void* list, int64_t bytes, findep_buffer* const* buffers, int64_t count, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(pipeline != nullptr && bytes >= 0 && count >= 0 && count <= static_cast<int64_t>(kListMaxBuffers), "pipeline is NULL, or %lld bytes or %lld buffers are impossible",
                   static_cast<long long>(bytes), static_cast<long long>(count));
    use(pipeline->device);
    pipeline->buffers.clear();
    for (int64_t i = 0; i < count; ++i) {
      FINDEP_REQUIRE(buffers != nullptr && buffers[i] != nullptr && buffers[i]->device == &pipeline->device, "buffer %lld is NULL or another device's", static_cast<long long>(i));
      pipeline->buffers.push_back(PipelineBuffer{buffers[i]->data, static_cast<uint64_t>(buffers[i]->bytes)});
    }
    pipeline->pipeline.run(static_cast<const uint8_t*>(list), static_cast<uint64_t>(bytes), pipeline->buffers.data(), static_cast<uint32_t>(count));
  });
}

findep_status pipeline_wait(findep_pipeline* pipeline, int64_t timeout_ms, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(pipeline != nullptr && timeout_ms >= 0 && timeout_ms <= INT64_MAX / 1000, "pipeline is NULL, or the time-out %lld ms impossible", static_cast<long long>(timeout_ms));
    use(pipeline->device);
    pipeline->pipeline.wait(timeout_ms * 1000);
  });
}

void pipeline_cancel(findep_pipeline* pipeline) {
  if (pipeline != nullptr) pipeline->pipeline.cancel();
}

void pipeline_close(findep_pipeline* pipeline) {
  if (pipeline == nullptr) return;
  cudaSetDevice(pipeline->device.index);
  delete pipeline;
}

findep_status pipeline_times(findep_pipeline* pipeline, findep_task_time* times, int64_t count, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(pipeline != nullptr && count >= 0, "pipeline is NULL, or %lld times are impossible", static_cast<long long>(count));
    use(pipeline->device);
    pipeline->pipeline.times(times, static_cast<uint64_t>(count));
  });
}

}  // namespace findep
