// SPDX-License-Identifier: Apache-2.0

#include "tests/recorder/recorder.h"

namespace findep::recorder {

void Device::run(uint32_t stream, const findep_command& command) {
  log_.add('O', stream, command.op);
  const OpLayout layout = op_layout_of(command.op);
  FINDEP_REQUIRE(command.args_size == layout.matrices * sizeof(findep_matrix) + layout.tail,
                 "operation %u has %u bytes of arguments", command.op, command.args_size);
  for (uint32_t i = 0; i < layout.matrices; ++i) {
    findep_matrix m;
    memcpy(&m, static_cast<const char*>(command.args) + sizeof(m) * i, sizeof(m));
    if (m.rows == 0) continue;
    const int64_t size = m.dtype == FINDEP_F32 || m.dtype == FINDEP_I32 ? 4 : m.dtype == FINDEP_F8E4M3 ? 1 : 2;
    const int64_t bytes = ((m.rows - 1) * m.stride + m.cols) * size;
    log_.add((layout.writes >> i & 1) != 0 ? 'w' : 'r', reinterpret_cast<uintptr_t>(m.data), bytes);
  }
}

}  // namespace findep::recorder
