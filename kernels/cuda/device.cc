// SPDX-License-Identifier: Apache-2.0
//
// Devices, buffers, streams and events of the CUDA backend, and its table.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/internal.h"
#include "cuda/narrow.h"
#include "cuda/pipeline_cuda.h"

namespace findep {

std::string& error_of(findep_stream& stream) { return stream.error; }

void enter(findep_stream& stream) { use(*stream.device); }

namespace {

// FINDEP_CUDA_ACTIVATIONS: rounded, which it is without, or exact.
Activations wanted_activations() {
  const char* named = getenv("FINDEP_CUDA_ACTIVATIONS");
  if (named == nullptr || *named == 0 || strcmp(named, "rounded") == 0) return Activations::kRounded;
  FINDEP_REQUIRE(strcmp(named, "exact") == 0, "FINDEP_CUDA_ACTIVATIONS is \"%.40s\"; it must be rounded or exact", named);
  return Activations::kExact;
}

// How many devices there are; 0 without a driver or a GPU. A driver that is too
// old fails, because the GPUs are there and an update makes them usable.
int count_devices() {
  int driver = 0, runtime = 0, count = 0;
  FINDEP_CUDA(cudaRuntimeGetVersion(&runtime));
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice) return 0;
  if (status == cudaErrorInsufficientDriver) {
    FINDEP_FAIL(FINDEP_DRIVER_TOO_OLD,
                "the NVIDIA driver supports CUDA %d.%d but this library was built with CUDA %d.%d: update the driver",
                driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }
  FINDEP_CUDA(status);
  return count;
}

findep_status device_count(int32_t* count, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(count != nullptr, "count is NULL");
    *count = 0;
    *count = count_devices();
  });
}

void require_device(int32_t index) {
  const int count = count_devices();
  if (count == 0) {
    int driver = 0;
    const bool driven = cudaDriverGetVersion(&driver) == cudaSuccess && driver != 0;
    FINDEP_FAIL(FINDEP_NO_DEVICE, "no CUDA device: %s",
                driven ? "the NVIDIA driver finds no GPU; give the container one, or use the backend cpu"
                       : "no NVIDIA driver is installed; install it, or use the backend cpu");
  }
  if (index < 0 || index >= count) {
    FINDEP_FAIL(FINDEP_NO_DEVICE, "no CUDA device %d: there are %d, numbered from 0", index, count);
  }
}

findep_status device_open(int32_t index, findep_device** device, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr, "device is NULL");
    *device = nullptr;
    require_device(index);
    cudaDeviceProp properties;
    FINDEP_CUDA(cudaGetDeviceProperties(&properties, index));
    auto opened = std::make_unique<findep_device>();
    opened->index = index;
    opened->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    opened->activations = wanted_activations();
    snprintf(opened->name, sizeof(opened->name), "cuda:%d %.100s", index, properties.name);
    use(*opened);
    require_kernel_image(*opened);
    opened->algorithms = std::make_unique<LtAlgorithms>();
    *device = opened.release();
  });
}

findep_status device_close(findep_device* device, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr, "device is NULL");
    const int64_t objects = device->objects.load();
    FINDEP_REQUIRE(objects == 0, "%lld buffers, streams or events of the device are not freed",
                   static_cast<long long>(objects));
    if (device->pool_memory != nullptr && cudaSetDevice(device->index) == cudaSuccess) cudaFree(device->pool_memory);
    delete device;
  });
}

findep_status device_info(findep_device* device, findep_device_info* info, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && info != nullptr, "device or info is NULL");
    *info = findep_device_info{};
    snprintf(info->name, sizeof(info->name), "%s", device->name);
    info->memory_bytes = device->memory_bytes;
  });
}

int32_t supports(findep_device*, findep_op op, findep_dtype weight) {
  switch (op) {
    case FINDEP_OP_EMBED:
    case FINDEP_OP_RMSNORM:
    case FINDEP_OP_MATMUL:
    case FINDEP_OP_HEAD_MATMUL:
    case FINDEP_OP_EXPERT_MLP:
      return weight == FINDEP_F32 || weight == FINDEP_BF16 || weight == FINDEP_F16 ? 1 : 0;
    // Their type is the KV cache's.
    case FINDEP_OP_ATTENTION:
    case FINDEP_OP_SCATTER_ROWS:
      return weight == FINDEP_F32 || weight == FINDEP_BF16 ? 1 : 0;
    default:
      return op < FINDEP_OP_COUNT && weight == FINDEP_F32 ? 1 : 0;
  }
}

void release_memory(findep_device& device, void* data, bool pooled) {
  if (pooled) {
    device.pool->give(static_cast<uint64_t>(static_cast<char*>(data) - static_cast<char*>(device.pool_memory)));
  } else {
    cudaFree(data);
  }
}

int64_t stream_bytes(findep_device*) { return static_cast<int64_t>(LtAlgorithms::kWorkspaceBytes) + kNarrowedBytes; }

// Memory of the pool where there is one, else the driver's.
void* take_memory(findep_device& device, int64_t bytes) {
  const size_t size = static_cast<size_t>(bytes > 0 ? bytes : 1);
  if (device.pool != nullptr) return static_cast<char*>(device.pool_memory) + device.pool->take(size);
  void* data = nullptr;
  FINDEP_CUDA(cudaMalloc(&data, size));
  return data;
}

findep_status buffer_alloc(findep_device* device, int64_t bytes, findep_buffer** buffer, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && buffer != nullptr, "device or buffer is NULL");
    *buffer = nullptr;
    FINDEP_REQUIRE(bytes >= 0, "cannot allocate %lld bytes", static_cast<long long>(bytes));
    if (bytes > device->memory_bytes) {
      FINDEP_FAIL(FINDEP_OUT_OF_MEMORY, "cannot allocate %lld bytes: %s has %lld", static_cast<long long>(bytes),
                  device->name, static_cast<long long>(device->memory_bytes));
    }
    use(*device);
    const bool pooled = device->pool != nullptr;
    void* const data = take_memory(*device, bytes);
    cudaError_t status = cudaMemset(data, 0, static_cast<size_t>(bytes > 0 ? bytes : 1));
    // Streams of this backend do not wait for the default stream.
    if (status == cudaSuccess) status = cudaStreamSynchronize(nullptr);
    findep_buffer* made = status == cudaSuccess ? new (std::nothrow) findep_buffer{device, data, bytes, pooled} : nullptr;
    if (made == nullptr) {
      release_memory(*device, data, pooled);
      FINDEP_CUDA(status);
      throw std::bad_alloc();
    }
    *buffer = made;
    ++device->objects;
  });
}

void buffer_free(findep_buffer* buffer) {
  if (buffer == nullptr) return;
  // A failure here is one of earlier work, which the stream reports.
  if (cudaSetDevice(buffer->device->index) == cudaSuccess) release_memory(*buffer->device, buffer->data, buffer->pooled);
  --buffer->device->objects;
  delete buffer;
}

void* buffer_data(findep_buffer* buffer) { return buffer == nullptr ? nullptr : buffer->data; }

void* buffer_host(findep_buffer*) { return nullptr; }

void release(findep_stream& s) {
  if (s.workspace != nullptr) release_memory(*s.device, s.workspace, s.pooled);
  if (s.narrowed != nullptr) release_memory(*s.device, s.narrowed, s.pooled);
  if (s.stream != nullptr) cudaStreamDestroy(s.stream);
}

findep_status stream_create(findep_device* device, int32_t threads, findep_stream** stream, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && stream != nullptr, "device or stream is NULL");
    *stream = nullptr;
    FINDEP_REQUIRE(threads >= 0 && threads <= 1024, "threads is %d; it must be in [0, 1024]", threads);
    *stream = make_stream(*device, true);
  });
}

findep_status stream_free(findep_stream* stream) {
  if (stream == nullptr) return FINDEP_OK;
  std::string text;
  const findep_status status = guarded(&text, [&] {
    use(*stream->device);
    FINDEP_CUDA(cudaStreamSynchronize(stream->stream));
  });
  release(*stream);
  --stream->device->objects;
  delete stream;
  return status;
}

findep_status stream_synchronize(findep_stream* stream) {
  return on_stream(stream, stream, [](findep_stream& s, const findep_stream&) {
    FINDEP_CUDA(cudaStreamSynchronize(s.stream));
  });
}

const char* stream_error(findep_stream* stream) {
  return stream == nullptr ? "the stream is NULL" : stream->error.c_str();
}

void require_span(const findep_buffer& b, int64_t offset, int64_t bytes) {
  FINDEP_REQUIRE(offset >= 0 && bytes >= 0 && bytes <= b.bytes && offset <= b.bytes - bytes,
                 "%lld bytes at offset %lld exceed the buffer's %lld", static_cast<long long>(bytes),
                 static_cast<long long>(offset), static_cast<long long>(b.bytes));
}

// Both copies wait: the caller's memory must not be touched beyond the call,
// and where the device reads pageable memory itself a copy only begins.
findep_status copy_in(findep_stream* stream, findep_buffer* to, int64_t offset, const void* from, int64_t bytes) {
  return on_stream(stream, to, [&](findep_stream& s, const findep_buffer& b) {
    require_span(b, offset, bytes);
    if (bytes == 0) return;
    FINDEP_REQUIRE(from != nullptr, "copying from NULL");
    char* place = static_cast<char*>(b.data) + offset;
    FINDEP_CUDA(cudaMemcpyAsync(place, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, s.stream));
    FINDEP_CUDA(cudaStreamSynchronize(s.stream));
  });
}

findep_status copy_out(findep_stream* stream, void* to, findep_buffer* from, int64_t offset, int64_t bytes) {
  return on_stream(stream, from, [&](findep_stream& s, const findep_buffer& b) {
    require_span(b, offset, bytes);
    if (bytes == 0) return;
    FINDEP_REQUIRE(to != nullptr, "copying to NULL");
    const char* place = static_cast<const char*>(b.data) + offset;
    FINDEP_CUDA(cudaMemcpyAsync(to, place, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, s.stream));
    FINDEP_CUDA(cudaStreamSynchronize(s.stream));
  });
}

findep_status event_create(findep_device* device, findep_event** event, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && event != nullptr, "device or event is NULL");
    *event = nullptr;
    use(*device);
    cudaEvent_t made = nullptr;
    FINDEP_CUDA(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
    *event = new (std::nothrow) findep_event;
    if (*event == nullptr) {
      cudaEventDestroy(made);
      throw std::bad_alloc();
    }
    (*event)->device = device;
    (*event)->event = made;
    ++device->objects;
  });
}

void event_cancel(findep_event* event) {
  if (event == nullptr) return;
  std::lock_guard<std::mutex> lock(event->mutex);
  event->cancelled = true;
  event->changed.notify_all();
}

void event_free(findep_event* event) {
  if (event == nullptr) return;
  if (cudaSetDevice(event->device->index) == cudaSuccess) cudaEventDestroy(event->event);
  --event->device->objects;
  delete event;
}

}  // namespace

findep_stream* make_stream(findep_device& device, bool products) {
  use(device);
  auto made = std::make_unique<findep_stream>();
  made->device = &device;
  try {
    FINDEP_CUDA(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
    if (products) {
      made->pooled = device.pool != nullptr;
      made->workspace = take_memory(device, static_cast<int64_t>(LtAlgorithms::kWorkspaceBytes));
      made->narrowed = take_memory(device, kNarrowedBytes);
    }
  } catch (...) {
    release(*made);
    throw;
  }
  ++device.objects;
  return made.release();
}

// The lock makes the record visible to the device before a waiter sees it.
findep_status event_record(findep_stream* stream, findep_event* event) {
  return on_stream(stream, event, [&](findep_stream& s, const findep_event&) {
    std::lock_guard<std::mutex> lock(event->mutex);
    FINDEP_CUDA(cudaEventRecord(event->event, s.stream));
    event->recorded = true;
    event->changed.notify_all();
  });
}

// CUDA takes a wait for an event that was never recorded as no wait at all, so
// the thread waits for the record and the device for what it marks.
findep_status event_wait(findep_stream* stream, findep_event* event) {
  return on_stream(stream, event, [&](findep_stream& s, const findep_event&) {
    std::unique_lock<std::mutex> lock(event->mutex);
    event->changed.wait(lock, [&] { return event->recorded || event->cancelled; });
    if (event->cancelled) FINDEP_FAIL(FINDEP_CANCELLED, "the event was cancelled");
    FINDEP_CUDA(cudaStreamWaitEvent(s.stream, event->event, 0));
  });
}

namespace {

const findep_backend kTable = {
    FINDEP_ABI_VERSION, sizeof(findep_backend), "cuda",
    device_count,       device_open,            device_close,  device_info,        supports,
    buffer_alloc,       buffer_free,            buffer_data,   buffer_host,
    stream_create,      stream_free,            stream_synchronize, stream_error,  copy_in,   copy_out,
    event_create,       event_record,           event_wait,    event_cancel,       event_free,
    embed,              rmsnorm,                matmul,        head_matmul,        rope,
    scatter_rows,       gather_rows,            attention,     router,             dispatch,
    group_experts,      expert_mlp,             combine_rows,  swiglu,             add,
    submit,
    pool_reserve,       pipeline_ids,           pipeline_open, pipeline_run,       pipeline_wait, pipeline_cancel,
    pipeline_close,     pipeline_times,         stream_bytes,
};

}  // namespace

const findep_backend& cuda_table() { return kTable; }

}  // namespace findep

extern "C" __attribute__((visibility("default"))) const findep_backend* findep_backend_open(uint32_t abi_version,
                                                                                           findep_error* error) {
  if (abi_version == FINDEP_ABI_VERSION) return &findep::kTable;
  if (error != nullptr) {
    error->status = FINDEP_VERSION_MISMATCH;
    snprintf(error->message, sizeof(error->message), "this library serves ABI version %u, not %u", FINDEP_ABI_VERSION,
             abi_version);
  }
  return nullptr;
}
