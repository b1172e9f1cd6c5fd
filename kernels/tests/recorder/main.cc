// SPDX-License-Identifier: Apache-2.0
//
// Enqueues the task lists that come on the standard input on the recording
// device, and answers each with what was recorded, or with why it was refused.
//
//   request   u32 bytes, the list
//   answer    u32 status, u32 bytes, the record or the error's text
//
// Buffer i stands at address (i + 1) << 40 with the size that the list claims,
// as far as that is possible. One pipeline serves all lists of the process.

#include <cstdlib>
#include <vector>

#include "cuda/pipeline.h"
#include "tests/recorder/recorder.h"

namespace {

using namespace findep;

bool read_all(void* to, size_t bytes) { return bytes == 0 || fread(to, bytes, 1, stdin) == 1; }

void answer(findep_status status, const std::string& text) {
  const uint32_t head[2] = {static_cast<uint32_t>(status), static_cast<uint32_t>(text.size())};
  fwrite(head, sizeof(head), 1, stdout);
  fwrite(text.data(), 1, text.size(), stdout);
  fflush(stdout);
}

// The buffers that a list speaks of, however wrong it may be.
std::vector<PipelineBuffer> buffers_of(const std::vector<uint8_t>& list) {
  std::vector<PipelineBuffer> buffers;
  if (list.size() < sizeof(ListHeader)) return buffers;
  ListHeader header;
  memcpy(&header, list.data(), sizeof(header));
  for (uint64_t i = 0; i < header.buffers && sizeof(header) + 8 * (i + 1) <= list.size(); ++i) {
    uint64_t size;
    memcpy(&size, list.data() + sizeof(header) + 8 * i, sizeof(size));
    buffers.push_back(PipelineBuffer{reinterpret_cast<void*>((i + 1) << 40), size});
  }
  return buffers;
}

}  // namespace

int main() {
  constexpr uint32_t kMaxList = 1u << 30;
  recorder::Log log;
  recorder::Device device(log);
  recorder::Comm comm(log);
  recorder::Clock clock;
  Pipeline pipeline(device, comm, clock);
  for (uint32_t bytes = 0; read_all(&bytes, sizeof(bytes));) {
    if (bytes > kMaxList) return 1;
    std::vector<uint8_t> list(bytes);
    if (!read_all(list.data(), bytes)) return 1;
    const std::vector<PipelineBuffer> buffers = buffers_of(list);
    log.text.clear();
    std::string error;
    const findep_status status = guarded(&error, [&] {
      pipeline.run(list.data(), list.size(), buffers.data(), static_cast<uint32_t>(buffers.size()));
      pipeline.wait(1000);
    });
    answer(status, status == FINDEP_OK ? log.text : error);
  }
  return 0;
}
