// SPDX-License-Identifier: Apache-2.0
//
// The operations of the table, which every backend defines in files of their
// own, and what they share: the way in from the ABI and task lists.

#ifndef FINDEP_COMMON_OPERATIONS_H
#define FINDEP_COMMON_OPERATIONS_H

#include "common/args.h"

namespace findep {

// What a backend says about its streams.

// The place for the text of the stream's last failure.
std::string& error_of(findep_stream& stream);
// Prepares the calling thread for work on the stream.
void enter(findep_stream& stream);

// Runs an operation on a stream.
template <typename Args, typename Body>
findep_status on_stream(findep_stream* stream, const Args* args, Body body) noexcept {
  if (stream == nullptr) return FINDEP_INVALID_ARGUMENT;
  return guarded(&error_of(*stream), [&] {
    FINDEP_REQUIRE(args != nullptr, "the arguments are NULL");
    enter(*stream);
    body(*stream, *args);
  });
}

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
findep_status event_record(findep_stream* stream, findep_event* event);
findep_status event_wait(findep_stream* stream, findep_event* event);

// Issues one command after the other; the same for every backend.
findep_status submit(findep_stream* stream, const findep_command* commands, int64_t count, int64_t* done);

}  // namespace findep

#endif  // FINDEP_COMMON_OPERATIONS_H
