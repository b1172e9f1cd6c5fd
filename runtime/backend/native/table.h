// SPDX-License-Identifier: Apache-2.0
//
// Go cannot call C function pointers; these functions call the entries of a
// table for it. An entry that a backend may leave out answers
// FINDEP_UNSUPPORTED where it is missing.

#ifndef FINDEP_NATIVE_TABLE_H
#define FINDEP_NATIVE_TABLE_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

#include "findep/backend.h"

#if defined(__has_include)
#if !__has_include("library_hash.h")
#error "the native library is not built: run `make native`"
#endif
#endif
#include "library_hash.h"

#define FINDEP_OPERATION(name, args)                                                                                 \
  static inline findep_status call_##name(const findep_backend* t, findep_stream* s, const args* a) {               \
    return t->name == NULL ? FINDEP_UNSUPPORTED : t->name(s, a);                                                     \
  }

FINDEP_OPERATION(embed, findep_embed_args)
FINDEP_OPERATION(rmsnorm, findep_rmsnorm_args)
FINDEP_OPERATION(matmul, findep_matmul_args)
FINDEP_OPERATION(head_matmul, findep_head_matmul_args)
FINDEP_OPERATION(rope, findep_rope_args)
FINDEP_OPERATION(scatter_rows, findep_rows_args)
FINDEP_OPERATION(gather_rows, findep_rows_args)
FINDEP_OPERATION(attention, findep_attention_args)
FINDEP_OPERATION(router, findep_router_args)
FINDEP_OPERATION(dispatch, findep_dispatch_args)
FINDEP_OPERATION(group_experts, findep_group_experts_args)
FINDEP_OPERATION(expert_mlp, findep_expert_mlp_args)
FINDEP_OPERATION(combine_rows, findep_rows_args)
FINDEP_OPERATION(swiglu, findep_swiglu_args)
FINDEP_OPERATION(add, findep_add_args)

static inline findep_status call_device_count(const findep_backend* t, int32_t* n, findep_error* e) {
  return t->device_count(n, e);
}
static inline findep_status call_device_open(const findep_backend* t, int32_t i, findep_device** d, findep_error* e) {
  return t->device_open(i, d, e);
}
static inline findep_status call_device_close(const findep_backend* t, findep_device* d, findep_error* e) {
  return t->device_close(d, e);
}
static inline findep_status call_device_info(const findep_backend* t, findep_device* d, findep_device_info* i,
                                             findep_error* e) {
  return t->device_info(d, i, e);
}
static inline int32_t call_supports(const findep_backend* t, findep_device* d, findep_op op, findep_dtype w) {
  return t->supports(d, op, w);
}
static inline findep_status call_buffer_alloc(const findep_backend* t, findep_device* d, int64_t n, findep_buffer** b,
                                              findep_error* e) {
  return t->buffer_alloc(d, n, b, e);
}
static inline void call_buffer_free(const findep_backend* t, findep_buffer* b) { t->buffer_free(b); }
static inline void* call_buffer_data(const findep_backend* t, findep_buffer* b) { return t->buffer_data(b); }
static inline void* call_buffer_host(const findep_backend* t, findep_buffer* b) { return t->buffer_host(b); }
static inline findep_status call_stream_create(const findep_backend* t, findep_device* d, int32_t n, findep_stream** s,
                                               findep_error* e) {
  return t->stream_create(d, n, s, e);
}
static inline findep_status call_stream_free(const findep_backend* t, findep_stream* s) { return t->stream_free(s); }
static inline findep_status call_stream_synchronize(const findep_backend* t, findep_stream* s) {
  return t->stream_synchronize(s);
}
static inline const char* call_stream_error(const findep_backend* t, findep_stream* s) { return t->stream_error(s); }
static inline findep_status call_copy_in(const findep_backend* t, findep_stream* s, findep_buffer* b, int64_t at,
                                         const void* from, int64_t n) {
  return t->copy_in(s, b, at, from, n);
}
static inline findep_status call_copy_out(const findep_backend* t, findep_stream* s, void* to, findep_buffer* b,
                                          int64_t at, int64_t n) {
  return t->copy_out(s, to, b, at, n);
}
static inline findep_status call_event_create(const findep_backend* t, findep_device* d, findep_event** v,
                                              findep_error* e) {
  return t->event_create(d, v, e);
}
static inline findep_status call_event_record(const findep_backend* t, findep_stream* s, findep_event* v) {
  return t->event_record(s, v);
}
static inline findep_status call_event_wait(const findep_backend* t, findep_stream* s, findep_event* v) {
  return t->event_wait(s, v);
}
static inline void call_event_cancel(const findep_backend* t, findep_event* v) { t->event_cancel(v); }
static inline void call_event_free(const findep_backend* t, findep_event* v) { t->event_free(v); }

static inline const findep_backend* call_open(void* symbol, findep_error* e) {
  return ((findep_backend_open_fn)symbol)(FINDEP_ABI_VERSION, e);
}

// The entries of pipelines are there together or not at all.
static inline int has_pipelines(const findep_backend* t) {
  return t->struct_size >= offsetof(findep_backend, pipeline_close) + sizeof(t->pipeline_close) && t->pipeline_open != NULL;
}
static inline findep_status call_pool_reserve(const findep_backend* t, findep_device* d, int64_t n, findep_error* e) {
  return t->pool_reserve(d, n, e);
}
static inline findep_status call_pipeline_ids(const findep_backend* t, findep_device* d, void* ids, int64_t* n,
                                              findep_error* e) {
  return t->pipeline_ids(d, ids, n, e);
}
static inline findep_status call_pipeline_open(const findep_backend* t, findep_device* d, int32_t rank, int32_t world,
                                               const void* ids, int64_t n, int64_t timeout, findep_pipeline** p,
                                               findep_error* e) {
  const findep_pipeline_config config = {rank, world, ids, n, timeout};
  return t->pipeline_open(d, &config, p, e);
}
static inline findep_status call_pipeline_run(const findep_backend* t, findep_pipeline* p, const void* list, int64_t n,
                                              findep_buffer* const* buffers, int64_t count, findep_error* e) {
  return t->pipeline_run(p, list, n, buffers, count, e);
}
static inline findep_status call_pipeline_wait(const findep_backend* t, findep_pipeline* p, int64_t timeout,
                                               findep_error* e) {
  return t->pipeline_wait(p, timeout, e);
}
static inline void call_pipeline_cancel(const findep_backend* t, findep_pipeline* p) { t->pipeline_cancel(p); }
static inline void call_pipeline_close(const findep_backend* t, findep_pipeline* p) { t->pipeline_close(p); }

// Libraries of before these entries have neither times nor streams in the pool.
static inline findep_status call_pipeline_times(const findep_backend* t, findep_pipeline* p, findep_task_time* times,
                                                int64_t n, findep_error* e) {
  if (t->struct_size < offsetof(findep_backend, pipeline_times) + sizeof(t->pipeline_times) || t->pipeline_times == NULL) {
    return FINDEP_UNSUPPORTED;
  }
  return t->pipeline_times(p, times, n, e);
}
static inline int64_t call_stream_bytes(const findep_backend* t, findep_device* d) {
  if (t->struct_size < offsetof(findep_backend, stream_bytes) + sizeof(t->stream_bytes) || t->stream_bytes == NULL) return 0;
  return t->stream_bytes(d);
}

// Every entry up to `submit` belongs to the first version of the table.
static inline size_t least_table_size(void) { return offsetof(findep_backend, submit); }

#endif  // FINDEP_NATIVE_TABLE_H
