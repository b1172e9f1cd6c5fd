// SPDX-License-Identifier: Apache-2.0
//
// The C ABI between the FinDEP runtime and a backend for one kind of device.
//
// A backend is one table of functions, findep_backend. A backend linked into
// the runtime exports it under a name of its own (findep_backend_cpu); a
// shared library exports
//
//     const findep_backend* findep_backend_open(uint32_t abi_version, findep_error* error);
//
// which returns its table, or NULL and an error when it cannot serve that ABI
// version. The runtime compares abi_version for equality and uses an entry
// only if struct_size covers it, so entries may be appended within a version,
// and so may statuses. Argument structures and numbers change only together
// with the version.
//
// Rules for every function
//   - It returns findep_status, never aborts, never lets an exception out and
//     never keeps a pointer to memory of the caller beyond the call.
//   - A failure leaves its text where the caller finds it: functions with a
//     findep_error* fill it (it may be NULL); functions on a stream leave it for
//     stream_error. The text names the file and line that noticed, the argument,
//     its value and the remedy.
//   - Bad shapes, types and NULL are FINDEP_INVALID_ARGUMENT. What a matrix
//     points to is the caller's promise: `data` addresses rows x cols elements
//     with the given stride. Index values inside matrices (token ids, expert
//     numbers, slots) are checked by backends whose memory the host addresses;
//     other backends must ignore what they cannot check without reading it.
//   - A stream is used by one thread at a time, possibly a different one for
//     each call. Everything else may be called concurrently.
//   - Operations are issued to a stream and run in issue order; a backend may
//     run them at once. A failure that appears later is kept and returned, once,
//     by stream_synchronize.
//   - Operations must not allocate device memory. Zero rows are valid in every
//     operation and then do nothing.
//
// Data
//   Row-major matrices with a row stride. Activations are FINDEP_F32 unless
//   supports() says otherwise. Weights are [out, in] as in Hugging Face
//   checkpoints, in any type for which supports(op, type) is true; products are
//   accumulated in F32 or better. A backend may round activations to the type of
//   weights of 16 bits before it multiplies them; with F32 weights nothing rounds.
//   Outputs must not overlap inputs, except where an operation says so.

#ifndef FINDEP_BACKEND_H
#define FINDEP_BACKEND_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FINDEP_ABI_VERSION 1u

// ---- numbers ---------------------------------------------------------------

typedef int32_t findep_status;

enum {
  FINDEP_OK = 0,
  FINDEP_INVALID_ARGUMENT = 1,  // the call is wrong; nothing was done
  FINDEP_UNSUPPORTED = 2,       // right, but not on this device or type
  FINDEP_OUT_OF_MEMORY = 3,
  FINDEP_NO_DEVICE = 4,         // no such device, or no driver
  FINDEP_VERSION_MISMATCH = 5,  // of the ABI, a driver or a library
  FINDEP_CANCELLED = 6,         // an event was cancelled while waited for
  FINDEP_DEVICE_LOST = 7,       // the device needs to be opened again
  FINDEP_INTERNAL = 8,          // a defect in the backend
  FINDEP_MEMORY_EXCEEDED = 9,   // a plan needs more than the device's pool has
  FINDEP_NO_KERNEL_IMAGE = 10,  // the library has no code for the device's architecture
  FINDEP_DRIVER_TOO_OLD = 11,   // for the library
  FINDEP_NO_LIBRARY = 12,       // a library needed at run time is absent
  FINDEP_COMM_VERSION = 13,     // ranks have different versions of a communication library
  FINDEP_COMM_FAILED = 14,      // a peer or a link failed
  FINDEP_TIMED_OUT = 15         // a step or a connection did not end in time
};

typedef uint32_t findep_dtype;

enum {
  FINDEP_F32 = 0,
  FINDEP_BF16 = 1,
  FINDEP_F16 = 2,
  FINDEP_I32 = 3,
  FINDEP_F8E4M3 = 4
};

typedef uint32_t findep_op;

enum {
  FINDEP_OP_EMBED = 0,
  FINDEP_OP_RMSNORM = 1,
  FINDEP_OP_MATMUL = 2,
  FINDEP_OP_HEAD_MATMUL = 3,
  FINDEP_OP_ROPE = 4,
  FINDEP_OP_SCATTER_ROWS = 5,
  FINDEP_OP_GATHER_ROWS = 6,
  FINDEP_OP_ATTENTION = 7,
  FINDEP_OP_ROUTER = 8,
  FINDEP_OP_DISPATCH = 9,
  FINDEP_OP_GROUP_EXPERTS = 10,
  FINDEP_OP_EXPERT_MLP = 11,
  FINDEP_OP_COMBINE_ROWS = 12,
  FINDEP_OP_SWIGLU = 13,
  FINDEP_OP_ADD = 14,
  FINDEP_OP_COUNT = 15,
  // Commands of submit that are not operations; `args` is the event itself.
  FINDEP_COMMAND_RECORD = 256,
  FINDEP_COMMAND_WAIT = 257
};

enum { FINDEP_SOFTMAX = 0, FINDEP_SIGMOID = 1 };

// ---- handles and values ----------------------------------------------------

typedef struct findep_device findep_device;
typedef struct findep_buffer findep_buffer;
typedef struct findep_stream findep_stream;
typedef struct findep_event findep_event;
typedef struct findep_pipeline findep_pipeline;

typedef struct findep_error {
  findep_status status;
  char message[508];  // terminated by zero, cut if it is too long
} findep_error;

// Element (r, c) is at data + (r*stride + c) * size of dtype, in the device's
// address space. With zero rows, data may be NULL; a matrix "not given" is all
// zero. stride >= cols >= 1.
typedef struct findep_matrix {
  void* data;
  int64_t rows;
  int64_t cols;
  int64_t stride;
  findep_dtype dtype;
  uint32_t reserved;  // zero
} findep_matrix;

typedef struct findep_device_info {
  char name[128];         // such as "cpu" or "cuda:0 NVIDIA H100"
  int64_t memory_bytes;   // total memory of the device
  int32_t host_memory;    // 1 if the host can address every buffer
  uint32_t reserved;
} findep_device_info;

// ---- arguments of the operations -------------------------------------------

// out[i,:] = table[ids[i],:]. ids I32 [n,1], table weight [V,M], out F32 [n,M].
typedef struct findep_embed_args {
  findep_matrix out, table, ids;
} findep_embed_args;

// out[i,:] = x[i,:] / sqrt(mean(x[i,:]^2) + eps) * weight[0,:]. out may be x.
typedef struct findep_rmsnorm_args {
  findep_matrix out, x, weight;
  float eps;
  uint32_t reserved;
} findep_rmsnorm_args;

// out = x w^T, or out += x w^T with accumulate = 1.
// x F32 [n,in], w weight [out,in], out F32 [n,out].
typedef struct findep_matmul_args {
  findep_matrix out, x, w;
  uint32_t accumulate;
  uint32_t reserved;
} findep_matmul_args;

// out[:, h*out_stride + o] = sum_i x[:, h*x_stride + i] * W_h(o,i), for heads
// h in [0,heads), o in [0,out_size), i in [0,in_size), with
// W_h(o,i) = w[h*w_stride + i, o], or w[h*w_stride + o, i] if transposed.
typedef struct findep_head_matmul_args {
  findep_matrix out, x, w;
  int64_t heads, in_size, out_size;
  int64_t x_stride, out_stride, w_stride;
  uint32_t transposed;
  uint32_t reserved;
} findep_head_matmul_args;

// Rotates, in place, columns h*head_stride + offset + [0,dim) of each head:
// pairs (2i, 2i+1) if interleaved, else (i, i + dim/2). Row positions[r] of
// table F32 [P,dim] holds the cosine of pair i in column i and its sine in
// column dim/2 + i. positions I32 [n,1].
typedef struct findep_rope_args {
  findep_matrix x, positions, table;
  int64_t heads, head_stride, offset, dim;
  uint32_t interleaved;
  uint32_t reserved;
} findep_rope_args;

// scatter_rows: indexed[index[i],:]  = rows[i,:]     index distinct
// gather_rows:  rows[i,:]            = indexed[index[i],:]
// combine_rows: indexed[index[i],:] += rows[i,:]     index distinct
// index I32 [n,1], rows F32 [n,M], indexed F32 [*,M]. Where supports says so
// (FINDEP_OP_SCATTER_ROWS, FINDEP_BF16), scatter_rows rounds rows to an indexed of
// BF16, to nearest even.
typedef struct findep_rows_args {
  findep_matrix indexed, rows, index;
} findep_rows_args;

// Causal attention of several pieces over a paged cache.
// q F32 [n, heads*key_dim], out F32 [n, heads*value_dim],
// keys F32 [slots, kv_heads*key_dim], values F32 [slots, kv_heads*value_dim];
// query head h uses KV head h / (heads/kv_heads). keys and values may overlap;
// where supports says so (FINDEP_OP_ATTENTION, FINDEP_BF16) they may be BF16, both,
// and are widened to F32 as they are read.
// Piece s owns query rows [query_start[s], query_start[s+1]) and has
// context_length[s] tokens including those rows, which are its last. Its token
// t lies in slot block_table[s, t/block_size]*block_size + t%block_size; its
// query row i of L sees tokens [0, context_length - L + i].
// query_start I32 [pieces+1,1], context_length I32 [pieces,1],
// block_table I32 [pieces, max_blocks].
typedef struct findep_attention_args {
  findep_matrix out, q, keys, values;
  findep_matrix query_start, context_length, block_table;
  int64_t heads, kv_heads, key_dim, value_dim, block_size;
  float scale;
  uint32_t reserved;
} findep_attention_args;

// Chooses top_k of E experts by descending (score + bias), ties to the smaller
// number, NaN last; weights are scale * score, divided by the sum of the chosen
// scores + 1e-20 with normalize. With groups > 1, the experts form equal
// contiguous groups of which only the top_k_groups best compete; a group's
// score is its maximum, or the sum of its two largest with group_top2.
// logits F32 [n,E], bias F32 [1,E] or not given, weights F32 [n,top_k],
// experts I32 [n,top_k]. scale must not be 0.
typedef struct findep_router_args {
  findep_matrix weights, experts, logits, bias;
  int64_t num_experts, top_k, groups, top_k_groups;
  uint32_t scoring;
  uint32_t group_top2;
  uint32_t normalize;
  float scale;
} findep_router_args;

// Packs n tokens for `ranks` expert ranks; rank e holds the experts
// [expert_start[e], expert_start[e+1]), expert_start I32 [ranks+1,1].
// In: experts I32 [n,k], weights F32 [n,k] as from the router.
// Out, rank after rank: the tokens with an expert there, ascending, are rows
// [row_start[e], row_start[e+1]) of row_token; row r has the pairs
// [pair_start[r], pair_start[r+1]) of pair_expert (numbered from 0 within the
// rank, ascending) and pair_weight.
// row_start I32 [ranks+1,1], row_token I32 [n*min(k,ranks),1], pair_start I32
// [n*min(k,ranks)+1,1], pair_expert I32 [n*k,1], pair_weight F32 [n*k,1]; what
// lies beyond the last row and pair is left as it was.
typedef struct findep_dispatch_args {
  findep_matrix experts, weights, expert_start;
  findep_matrix row_start, row_token, pair_start, pair_expert, pair_weight;
} findep_dispatch_args;

// Sorts the pairs of `rows` rows by expert, then row: expert e has the places
// [group_start[e], group_start[e+1]) of group_row and group_weight.
// In: pair_start I32 [rows+1,1] from 0, pair_expert I32 [pairs,1], pair_weight
// F32 [pairs,1]. Out: group_start I32 [num_experts+1,1], group_row I32
// [pairs,1], group_weight F32 [pairs,1].
typedef struct findep_group_experts_args {
  findep_matrix pair_start, pair_expert, pair_weight;
  findep_matrix group_start, group_row, group_weight;
  int64_t rows, num_experts;
} findep_group_experts_args;

// out[r,:] = sum over places p of group_row with group_row[p] = r, e ascending:
// group_weight[p] * (SiLU(x[r] Wgate_e^T) * (x[r] Wup_e^T)) Wdown_e^T.
// x, out F32 [n,M]; gate_up weight [num_experts*2H, M]: H rows of gate, then H
// of up for each expert; down weight [num_experts*M, H] of the same type;
// workspace F32 [>= pairs, >= 3H + 2M], contents lost.
typedef struct findep_expert_mlp_args {
  findep_matrix out, x, gate_up, down;
  findep_matrix group_start, group_row, group_weight;
  findep_matrix workspace;
  int64_t num_experts, hidden;
} findep_expert_mlp_args;

// out[i,c] = SiLU(gate_up[i,c]) * gate_up[i,H+c]. gate_up [n,2H], out [n,H].
typedef struct findep_swiglu_args {
  findep_matrix out, gate_up;
} findep_swiglu_args;

// out = a + b, equal shapes; out may be a or b.
typedef struct findep_add_args {
  findep_matrix out, a, b;
} findep_add_args;

// One entry of a task list. op is a findep_op with its argument structure in
// args, or a FINDEP_COMMAND with the event.
typedef struct findep_command {
  findep_op op;
  uint32_t args_size;  // size of the argument structure, 0 for an event
  const void* args;
} findep_command;

// What a pipeline needs to meet its peers.
typedef struct findep_pipeline_config {
  int32_t rank, world;
  const void* ids;  // what pipeline_ids gave on the leader, for this epoch
  int64_t ids_bytes;
  int64_t timeout_ms;  // for meeting the peers
} findep_pipeline_config;

// When a task of a list ran, in nanoseconds of the device's clock since the list
// began there.
typedef struct findep_task_time {
  int64_t start, end;
} findep_task_time;

// ---- the table -------------------------------------------------------------

typedef struct findep_backend {
  uint32_t abi_version;  // FINDEP_ABI_VERSION
  uint32_t struct_size;  // sizeof(findep_backend) when the backend was built
  const char* name;      // "cpu", "cuda"

  // Devices. device_count is 0, and FINDEP_OK, where there are none.
  findep_status (*device_count)(int32_t* count, findep_error* error);
  findep_status (*device_open)(int32_t index, findep_device** device, findep_error* error);
  // Fails while buffers, streams or events of the device remain.
  findep_status (*device_close)(findep_device* device, findep_error* error);
  findep_status (*device_info)(findep_device* device, findep_device_info* info, findep_error* error);
  // 1 if op runs with weights of the given type (F32 for an op without).
  int32_t (*supports)(findep_device* device, findep_op op, findep_dtype weight);

  // Buffers: zeroed, aligned to at least 64 bytes; 0 bytes is valid.
  findep_status (*buffer_alloc)(findep_device* device, int64_t bytes, findep_buffer** buffer, findep_error* error);
  void (*buffer_free)(findep_buffer* buffer);
  void* (*buffer_data)(findep_buffer* buffer);  // the device's address
  void* (*buffer_host)(findep_buffer* buffer);  // the host's address, or NULL

  // Streams. threads bounds the host threads one operation may use; 0 leaves
  // the choice to the backend.
  findep_status (*stream_create)(findep_device* device, int32_t threads, findep_stream** stream, findep_error* error);
  findep_status (*stream_free)(findep_stream* stream);
  findep_status (*stream_synchronize)(findep_stream* stream);
  // The text of the stream's last failure, valid until its next call.
  const char* (*stream_error)(findep_stream* stream);
  findep_status (*copy_in)(findep_stream* stream, findep_buffer* to, int64_t offset, const void* from, int64_t bytes);
  findep_status (*copy_out)(findep_stream* stream, void* to, findep_buffer* from, int64_t offset, int64_t bytes);

  // Events. event_wait makes what is issued next start after the last
  // event_record; while there was none it blocks the calling thread until the
  // first, or until event_cancel, after which every wait returns
  // FINDEP_CANCELLED. event_free must not be called while others wait.
  findep_status (*event_create)(findep_device* device, findep_event** event, findep_error* error);
  findep_status (*event_record)(findep_stream* stream, findep_event* event);
  findep_status (*event_wait)(findep_stream* stream, findep_event* event);
  void (*event_cancel)(findep_event* event);
  void (*event_free)(findep_event* event);

  // Operations; one that supports() never admits may be NULL.
  findep_status (*embed)(findep_stream* stream, const findep_embed_args* args);
  findep_status (*rmsnorm)(findep_stream* stream, const findep_rmsnorm_args* args);
  findep_status (*matmul)(findep_stream* stream, const findep_matmul_args* args);
  findep_status (*head_matmul)(findep_stream* stream, const findep_head_matmul_args* args);
  findep_status (*rope)(findep_stream* stream, const findep_rope_args* args);
  findep_status (*scatter_rows)(findep_stream* stream, const findep_rows_args* args);
  findep_status (*gather_rows)(findep_stream* stream, const findep_rows_args* args);
  findep_status (*attention)(findep_stream* stream, const findep_attention_args* args);
  findep_status (*router)(findep_stream* stream, const findep_router_args* args);
  findep_status (*dispatch)(findep_stream* stream, const findep_dispatch_args* args);
  findep_status (*group_experts)(findep_stream* stream, const findep_group_experts_args* args);
  findep_status (*expert_mlp)(findep_stream* stream, const findep_expert_mlp_args* args);
  findep_status (*combine_rows)(findep_stream* stream, const findep_rows_args* args);
  findep_status (*swiglu)(findep_stream* stream, const findep_swiglu_args* args);
  findep_status (*add)(findep_stream* stream, const findep_add_args* args);

  // (optional) Issues a whole task list in one call; stops at the first
  // command that fails. *done, if given, is the number that did not.
  findep_status (*submit)(findep_stream* stream, const findep_command* commands, int64_t count, int64_t* done);

  // (optional, all or none) Pipelines run whole steps of one rank: a list (see
  // kernels/common/tasklist.h) is enqueued in one call, transfers between ranks
  // included. One thread at a time uses a pipeline; pipeline_cancel may be
  // called from any.

  // Takes memory that every later buffer of the device is cut from, until the
  // device is closed; a buffer that no longer fits is FINDEP_MEMORY_EXCEEDED.
  // Zero bytes give it back, if no buffer is left in it.
  findep_status (*pool_reserve)(findep_device* device, int64_t bytes, findep_error* error);
  // Makes the ids by which the ranks of one epoch meet; *bytes is the room in
  // ids and then what is used of it, at most FINDEP_IDS_BYTES.
  findep_status (*pipeline_ids)(findep_device* device, void* ids, int64_t* bytes, findep_error* error);
  // Meets the peers; returns when all have called it, or fails in time.
  findep_status (*pipeline_open)(findep_device* device, const findep_pipeline_config* config, findep_pipeline** pipeline, findep_error* error);
  // Checks a list, with the buffers that its numbers stand for, and enqueues it.
  findep_status (*pipeline_run)(findep_pipeline* pipeline, const void* list, int64_t bytes, findep_buffer* const* buffers, int64_t count, findep_error* error);
  // Returns when the list has run. After any failure the pipeline can only be
  // closed.
  findep_status (*pipeline_wait)(findep_pipeline* pipeline, int64_t timeout_ms, findep_error* error);
  void (*pipeline_cancel)(findep_pipeline* pipeline);
  void (*pipeline_close)(findep_pipeline* pipeline);

  // (optional) When the tasks of the last list ran, if that asked for times and
  // pipeline_wait has seen its end; count is the number of its tasks. A transfer
  // that receives begins when the device is ready for it, not when rows arrive.
  findep_status (*pipeline_times)(findep_pipeline* pipeline, findep_task_time* times, int64_t count, findep_error* error);
  // (optional) What each stream takes of the device's pool when it is made. So
  // does a pipeline, as much as one stream.
  int64_t (*stream_bytes)(findep_device* device);
} findep_backend;

#define FINDEP_IDS_BYTES 1024

// The backend in libfindep_cpu.
const findep_backend* findep_backend_cpu(void);

// The symbol that a shared library exports, see above.
typedef const findep_backend* (*findep_backend_open_fn)(uint32_t abi_version, findep_error* error);

#ifdef __cplusplus
}
#endif

#endif  // FINDEP_BACKEND_H
