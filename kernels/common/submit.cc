// SPDX-License-Identifier: Apache-2.0

#include "common/operations.h"

namespace findep {

namespace {

template <typename Args>
findep_status call(findep_status (*op)(findep_stream*, const Args*), findep_stream* stream, const findep_command& c) {
  const findep_status status = on_stream(stream, &c, [&](findep_stream&, const findep_command&) {
    FINDEP_REQUIRE(c.args_size == sizeof(Args), "operation %u has arguments of %u bytes; they must be %zu", c.op,
                   c.args_size, sizeof(Args));
  });
  return status == FINDEP_OK ? op(stream, static_cast<const Args*>(c.args)) : status;
}

findep_event* event_of(const findep_command& c) { return static_cast<findep_event*>(const_cast<void*>(c.args)); }

findep_status run(findep_stream* stream, const findep_command& c) {
  switch (c.op) {
    case FINDEP_OP_EMBED: return call(embed, stream, c);
    case FINDEP_OP_RMSNORM: return call(rmsnorm, stream, c);
    case FINDEP_OP_MATMUL: return call(matmul, stream, c);
    case FINDEP_OP_HEAD_MATMUL: return call(head_matmul, stream, c);
    case FINDEP_OP_ROPE: return call(rope, stream, c);
    case FINDEP_OP_SCATTER_ROWS: return call(scatter_rows, stream, c);
    case FINDEP_OP_GATHER_ROWS: return call(gather_rows, stream, c);
    case FINDEP_OP_ATTENTION: return call(attention, stream, c);
    case FINDEP_OP_ROUTER: return call(router, stream, c);
    case FINDEP_OP_DISPATCH: return call(dispatch, stream, c);
    case FINDEP_OP_GROUP_EXPERTS: return call(group_experts, stream, c);
    case FINDEP_OP_EXPERT_MLP: return call(expert_mlp, stream, c);
    case FINDEP_OP_COMBINE_ROWS: return call(combine_rows, stream, c);
    case FINDEP_OP_SWIGLU: return call(swiglu, stream, c);
    case FINDEP_OP_ADD: return call(add, stream, c);
    case FINDEP_COMMAND_RECORD: return event_record(stream, event_of(c));
    case FINDEP_COMMAND_WAIT: return event_wait(stream, event_of(c));
    default:
      return on_stream(stream, &c, [&](findep_stream&, const findep_command&) {
        FINDEP_FAIL(FINDEP_UNSUPPORTED, "unknown command %u", c.op);
      });
  }
}

}  // namespace

findep_status submit(findep_stream* stream, const findep_command* commands, int64_t count, int64_t* done) {
  if (done != nullptr) *done = 0;
  if (stream == nullptr || count < 0 || (count > 0 && commands == nullptr)) return FINDEP_INVALID_ARGUMENT;
  for (int64_t i = 0; i < count; ++i) {
    const findep_status status = run(stream, commands[i]);
    if (status != FINDEP_OK) return status;
    if (done != nullptr) *done = i + 1;
  }
  return FINDEP_OK;
}

}  // namespace findep
