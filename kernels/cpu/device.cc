// SPDX-License-Identifier: Apache-2.0
//
// Devices, buffers, streams and events of the CPU backend, and its table.

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "cpu/internal.h"

namespace findep {

std::string& error_of(findep_stream& stream) { return stream.error; }

void enter(findep_stream&) {}

namespace {

// The machine's memory, or the limit of the control group if that is smaller.
int64_t total_memory() {
  int64_t total = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  std::ifstream limit("/sys/fs/cgroup/memory.max");
  int64_t bytes = 0;
  if (limit >> bytes && bytes > 0) total = std::min(total, bytes);
  return total;
}

// As many threads as the process may run on, but few enough that ranks which
// share a machine do not drown it.
int default_threads() {
  constexpr int kMost = 8;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::clamp(CPU_COUNT(&set), 1, kMost);
}

findep_status device_count(int32_t* count, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(count != nullptr, "count is NULL");
    *count = 1;
  });
}

findep_status device_open(int32_t index, findep_device** device, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr, "device is NULL");
    *device = nullptr;
    if (index != 0) FINDEP_FAIL(FINDEP_NO_DEVICE, "there is no CPU device %d; the only one is 0", index);
    *device = new findep_device;
    (*device)->memory_bytes = total_memory();
  });
}

findep_status device_close(findep_device* device, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr, "device is NULL");
    const int64_t objects = device->objects.load();
    FINDEP_REQUIRE(objects == 0, "%lld buffers, streams or events of the device are not freed",
                   static_cast<long long>(objects));
    delete device;
  });
}

findep_status device_info(findep_device* device, findep_device_info* info, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && info != nullptr, "device or info is NULL");
    *info = findep_device_info{};
    snprintf(info->name, sizeof(info->name), "cpu");
    info->memory_bytes = device->memory_bytes;
    info->host_memory = 1;
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
    default:
      return op < FINDEP_OP_COUNT && weight == FINDEP_F32 ? 1 : 0;
  }
}

// Pages of the system are zeroed, aligned, and taken only when touched.
void* map(int64_t bytes) {
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}

findep_status buffer_alloc(findep_device* device, int64_t bytes, findep_buffer** buffer, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && buffer != nullptr, "device or buffer is NULL");
    *buffer = nullptr;
    FINDEP_REQUIRE(bytes >= 0, "cannot allocate %lld bytes", static_cast<long long>(bytes));
    const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t left = device->memory_bytes - device->used_bytes.load();
    const int64_t mapped = bytes > left ? 0 : (std::max<int64_t>(bytes, 1) + page - 1) / page * page;
    void* data = mapped == 0 ? nullptr : map(mapped);
    if (data == nullptr) {
      FINDEP_FAIL(FINDEP_OUT_OF_MEMORY, "cannot allocate %lld bytes: %lld of %lld are left",
                  static_cast<long long>(bytes), static_cast<long long>(left),
                  static_cast<long long>(device->memory_bytes));
    }
    *buffer = new (std::nothrow) findep_buffer{device, data, bytes, mapped};
    if (*buffer == nullptr) {
      munmap(data, static_cast<size_t>(mapped));
      throw std::bad_alloc();
    }
    device->used_bytes += mapped;
    ++device->objects;
  });
}

void buffer_free(findep_buffer* buffer) {
  if (buffer == nullptr) return;
  munmap(buffer->data, static_cast<size_t>(buffer->mapped_bytes));
  buffer->device->used_bytes -= buffer->mapped_bytes;
  --buffer->device->objects;
  delete buffer;
}

void* buffer_data(findep_buffer* buffer) { return buffer == nullptr ? nullptr : buffer->data; }

findep_status stream_create(findep_device* device, int32_t threads, findep_stream** stream, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && stream != nullptr, "device or stream is NULL");
    *stream = nullptr;
    FINDEP_REQUIRE(threads >= 0 && threads <= 1024, "threads is %d; it must be in [0, 1024]", threads);
    *stream = new findep_stream(device, threads == 0 ? default_threads() : threads);
    ++device->objects;
  });
}

findep_status stream_free(findep_stream* stream) {
  if (stream == nullptr) return FINDEP_OK;
  --stream->device->objects;
  delete stream;
  return FINDEP_OK;
}

findep_status stream_synchronize(findep_stream* stream) {
  return stream == nullptr ? FINDEP_INVALID_ARGUMENT : FINDEP_OK;
}

const char* stream_error(findep_stream* stream) {
  return stream == nullptr ? "the stream is NULL" : stream->error.c_str();
}

void require_span(const findep_buffer& b, int64_t offset, int64_t bytes) {
  FINDEP_REQUIRE(offset >= 0 && bytes >= 0 && bytes <= b.bytes && offset <= b.bytes - bytes,
                 "%lld bytes at offset %lld exceed the buffer's %lld", static_cast<long long>(bytes),
                 static_cast<long long>(offset), static_cast<long long>(b.bytes));
}

findep_status copy_in(findep_stream* stream, findep_buffer* to, int64_t offset, const void* from, int64_t bytes) {
  return on_stream(stream, to, [&](findep_stream&, const findep_buffer& b) {
    require_span(b, offset, bytes);
    if (bytes == 0) return;
    FINDEP_REQUIRE(from != nullptr, "copying from NULL");
    memcpy(static_cast<char*>(b.data) + offset, from, static_cast<size_t>(bytes));
  });
}

findep_status copy_out(findep_stream* stream, void* to, findep_buffer* from, int64_t offset, int64_t bytes) {
  return on_stream(stream, from, [&](findep_stream&, const findep_buffer& b) {
    require_span(b, offset, bytes);
    if (bytes == 0) return;
    FINDEP_REQUIRE(to != nullptr, "copying to NULL");
    memcpy(to, static_cast<const char*>(b.data) + offset, static_cast<size_t>(bytes));
  });
}

findep_status event_create(findep_device* device, findep_event** event, findep_error* error) {
  return reporting(error, [&] {
    FINDEP_REQUIRE(device != nullptr && event != nullptr, "device or event is NULL");
    *event = new findep_event;
    (*event)->device = device;
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
  --event->device->objects;
  delete event;
}

}  // namespace

// All that was issued to the stream has run, so the mark is reached.
findep_status event_record(findep_stream* stream, findep_event* event) {
  return on_stream(stream, event, [&](findep_stream&, const findep_event&) {
    std::lock_guard<std::mutex> lock(event->mutex);
    event->recorded = true;
    event->changed.notify_all();
  });
}

findep_status event_wait(findep_stream* stream, findep_event* event) {
  return on_stream(stream, event, [&](findep_stream&, const findep_event&) {
    std::unique_lock<std::mutex> lock(event->mutex);
    event->changed.wait(lock, [&] { return event->recorded || event->cancelled; });
    if (event->cancelled) FINDEP_FAIL(FINDEP_CANCELLED, "the event was cancelled");
  });
}

}  // namespace findep

extern "C" const findep_backend* findep_backend_cpu(void) {
  using namespace findep;
  static const findep_backend table = {
      FINDEP_ABI_VERSION, sizeof(findep_backend), "cpu",
      device_count,       device_open,            device_close,  device_info,        supports,
      buffer_alloc,       buffer_free,            buffer_data,   buffer_data,
      stream_create,      stream_free,            stream_synchronize, stream_error,  copy_in,   copy_out,
      event_create,       event_record,           event_wait,    event_cancel,       event_free,
      embed,              rmsnorm,                matmul,        head_matmul,        rope,
      scatter_rows,       gather_rows,            attention,     router,             dispatch,
      group_experts,      expert_mlp,             combine_rows,  swiglu,             add,
      submit,
      // Pipelines are for devices that run on their own.
      nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
  };
  return &table;
}
