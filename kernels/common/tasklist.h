// SPDX-License-Identifier: Apache-2.0
//
// The task list: what one rank does in one step, as bytes, so that it crosses
// the ABI in one call. runtime/backend/tasklist writes it; both sides read
// testdata/golden.bin. Everything is little-endian and nothing is trusted: a
// list is checked as a whole before anything of it is enqueued.
//
//   header   64 bytes, ListHeader
//   buffers  u64 each: the size in bytes that the writer believes in
//   tasks    32 bytes each, ListTask, in an order in which dependencies come first
//   deps     u32 each, task numbers; padded to 8 bytes with zero
//   ops      records of 8 bytes {u16 code, u16 0, u32 bytes} and a body, of all
//            tasks one after the other
//
// The body of a compute operation is its matrices, 40 bytes each (ListMatrix),
// and then the tail of its argument structure in backend.h, as it lies there.
// The body of a send or a receive is {u32 channel, u32 parts} and parts of 24
// bytes (ListPart): one group that starts and ends as one. Within a group parts
// are ordered by peer; over the whole list the groups of a channel are in
// ascending order of (layer, micro-batch, segment). All ranks keep this one
// lexicographic order, which is why they cannot wait for each other in a circle.

#ifndef FINDEP_COMMON_TASKLIST_H
#define FINDEP_COMMON_TASKLIST_H

#include <stddef.h>
#include <string.h>

#include "common/hd.h"
#include "findep/backend.h"

namespace findep {

constexpr uint32_t kListMagic = 0x4C544446;  // "FDTL"
constexpr uint32_t kListVersion = 1;

// Limits on what a list can make the other side hold.
constexpr uint32_t kListMaxBuffers = 1u << 16, kListMaxTasks = 1u << 20, kListMaxDeps = 1u << 22;
constexpr uint32_t kListMaxOps = 1u << 22, kListMaxParts = 1u << 14, kListMaxWorld = 1u << 12;
constexpr int64_t kListMaxSize = int64_t{1} << 30;

// Flags: record the list as a graph and replay it; note when its tasks run.
constexpr uint32_t kListCapture = 1, kListTimed = 2;

enum : uint32_t { kStreamCompute = 0, kStreamA2E = 1, kStreamE2A = 2, kStreams = 3 };
enum : uint32_t { kChannelA2E = 0, kChannelE2A = 1, kChannels = 2 };

// The kinds of runtime/schedule, and two for what lies outside the pipeline.
enum : uint32_t { kTaskAttention, kTaskShared, kTaskA2E, kTaskExpert, kTaskE2A, kTaskDense, kTaskHead, kTaskKinds };

// Operations beside those of backend.h.
enum : uint32_t { kOpPack = 128, kOpUnpack = 129, kOpSend = 130, kOpReceive = 131 };

// Packs the rows of one segment for all expert ranks, each at a fixed place
// with room for `capacity` rows and `pair_capacity` pairs, because a transfer's
// size must be known without asking the device. From the results of dispatch:
// x F32 [n,M], row_start, row_token, pair_start, pair_expert, pair_weight. To
// rows F32 [ranks*capacity,M]; headers I32 [ranks,16]; pairs I32
// [ranks,capacity+1+2*pair_capacity]; index I32 [ranks*capacity,1], the token
// of each place, -1 where there is none.
struct PackArgs {
  findep_matrix x, row_start, row_token, pair_start, pair_expert, pair_weight;
  findep_matrix rows, headers, pairs, index;
  int64_t capacity, pair_capacity, ranks;
  uint32_t layer, micro_batch, segment, reserved;
};

// Brings the pairs that came from all attention ranks together: headers I32
// [ranks,16], pairs I32 [words,1], first I32 [ranks+1,1], the first place of
// each rank's rows. To pair_start I32 [first[ranks]+1,1], pair_expert I32,
// pair_weight F32 [top_k*first[ranks],1]. A message that is not of this layer,
// micro-batch and segment, or whose numbers exceed their room, counts as empty
// and puts 1 + its rank into status I32 [1,1].
struct UnpackArgs {
  findep_matrix headers, pairs, first;
  findep_matrix pair_start, pair_expert, pair_weight, status;
  int64_t ranks, top_k;
  uint32_t layer, micro_batch, segment, reserved;
};

struct ListHeader {
  uint32_t magic, version;
  uint64_t bytes;  // of the whole list
  uint32_t buffers, tasks, deps, ops;
  uint32_t rank, world;
  uint32_t flags;
  uint32_t bucket;  // tokens of the batch, rounded up
  uint64_t plan;    // identifies plan and role; with bucket, what a graph is kept by
  uint64_t reserved;
};
static_assert(sizeof(ListHeader) == 64, "the header has 64 bytes");

struct ListTask {
  uint8_t kind, stream;
  uint16_t reserved;
  uint32_t layer, micro_batch, segment;
  uint32_t first_dep, deps, first_op, ops;
};
static_assert(sizeof(ListTask) == 32, "a task has 32 bytes");

struct ListMatrix {
  uint32_t buffer, dtype;
  int64_t offset;  // in elements
  int64_t rows, cols, stride;
};
static_assert(sizeof(ListMatrix) == 40, "a matrix has 40 bytes");

struct ListPart {
  uint32_t peer, buffer;
  uint64_t offset, bytes;
};
static_assert(sizeof(ListPart) == 24, "a part has 24 bytes");

// How an operation's arguments lie: matrices, then tail bytes. writes has a bit
// for each matrix that it writes. No matrices: there is no such operation.
struct OpLayout {
  uint32_t matrices, tail, writes;
};

// Every argument structure begins with its matrices.
template <typename Args>
constexpr OpLayout op_layout(uint32_t matrices, uint32_t writes) {
  return OpLayout{matrices, static_cast<uint32_t>(sizeof(Args) - matrices * sizeof(findep_matrix)), writes};
}

inline OpLayout op_layout_of(uint32_t code) {
  switch (code) {
    case FINDEP_OP_EMBED: return op_layout<findep_embed_args>(3, 0x1);
    case FINDEP_OP_RMSNORM: return op_layout<findep_rmsnorm_args>(3, 0x1);
    case FINDEP_OP_MATMUL: return op_layout<findep_matmul_args>(3, 0x1);
    case FINDEP_OP_HEAD_MATMUL: return op_layout<findep_head_matmul_args>(3, 0x1);
    case FINDEP_OP_ROPE: return op_layout<findep_rope_args>(3, 0x1);
    case FINDEP_OP_SCATTER_ROWS: return op_layout<findep_rows_args>(3, 0x1);
    case FINDEP_OP_GATHER_ROWS: return op_layout<findep_rows_args>(3, 0x2);
    case FINDEP_OP_ATTENTION: return op_layout<findep_attention_args>(7, 0x1);
    case FINDEP_OP_ROUTER: return op_layout<findep_router_args>(4, 0x3);
    case FINDEP_OP_DISPATCH: return op_layout<findep_dispatch_args>(8, 0xf8);
    case FINDEP_OP_GROUP_EXPERTS: return op_layout<findep_group_experts_args>(6, 0x38);
    case FINDEP_OP_EXPERT_MLP: return op_layout<findep_expert_mlp_args>(8, 0x81);
    case FINDEP_OP_COMBINE_ROWS: return op_layout<findep_rows_args>(3, 0x1);
    case FINDEP_OP_SWIGLU: return op_layout<findep_swiglu_args>(2, 0x1);
    case FINDEP_OP_ADD: return op_layout<findep_add_args>(3, 0x1);
    case kOpPack: return op_layout<PackArgs>(10, 0x3c0);
    case kOpUnpack: return op_layout<UnpackArgs>(7, 0x78);
    default: return OpLayout{0, 0, 0};
  }
}

// The largest argument structure, for scratch of a fixed size.
constexpr size_t kListMaxArgs = sizeof(PackArgs);

// What is wrong with a list: a text, where (a task, an operation or a byte), and
// the value found there. text is NULL where nothing is wrong.
struct ListFault {
  const char* text;
  uint64_t at, value;
};

// One operation of a list.
struct ListOp {
  uint32_t code;
  uint32_t bytes;  // of the body
  const uint8_t* body;
};

// The next step of a (layer, micro-batch, segment) order.
struct ListPlace {
  uint64_t layer_micro_batch, segment;
  bool any;
};

// A checked list. It points into the bytes it was made of.
class TaskList {
 public:
  ListHeader header{};

  uint64_t buffer_size(uint32_t i) const { return load<uint64_t>(buffers_ + size_t{8} * i); }
  ListTask task(uint32_t i) const { return load<ListTask>(tasks_ + sizeof(ListTask) * i); }
  uint32_t dep(uint32_t i) const { return load<uint32_t>(deps_ + size_t{4} * i); }
  const uint8_t* ops() const { return ops_; }

  // Reads the operation at `at`, which is one of a checked list, and returns
  // where the next one is.
  static const uint8_t* next(const uint8_t* at, ListOp* op) {
    op->code = load<uint16_t>(at);
    op->bytes = load<uint32_t>(at + 4) - 8;
    op->body = at + 8;
    return op->body + op->bytes;
  }

  static ListMatrix matrix(const ListOp& op, uint32_t i) { return load<ListMatrix>(op.body + sizeof(ListMatrix) * i); }
  static uint32_t channel(const ListOp& op) { return load<uint32_t>(op.body); }
  static uint32_t parts(const ListOp& op) { return load<uint32_t>(op.body + 4); }
  static ListPart part(const ListOp& op, uint32_t i) { return load<ListPart>(op.body + 8 + sizeof(ListPart) * i); }

  // Checks the whole list against buffers of the given sizes and opens it.
  ListFault open(const uint8_t* data, uint64_t bytes, const uint64_t* sizes, uint32_t count) {
    ListFault fault = sections(data, bytes);
    if (fault.text == nullptr) fault = sizes_match(sizes, count);
    if (fault.text == nullptr) fault = walk(data + bytes);
    return fault;
  }

 private:
  template <typename T>
  static T load(const uint8_t* at) {
    T value;
    memcpy(&value, at, sizeof(T));
    return value;
  }

  static ListFault fine() { return ListFault{nullptr, 0, 0}; }

  ListFault sections(const uint8_t* data, uint64_t bytes) {
    if (data == nullptr || bytes < sizeof(ListHeader)) return {"a list has a header of 64 bytes; bytes", 0, bytes};
    header = load<ListHeader>(data);
    const ListHeader& h = header;
    if (h.magic != kListMagic) return {"not a task list: the magic is", 0, h.magic};
    if (h.version != kListVersion) return {"unknown version of the task list", 4, h.version};
    if (h.bytes != bytes) return {"the header's size is not the list's", 8, h.bytes};
    if (h.buffers > kListMaxBuffers) return {"too many buffers", 16, h.buffers};
    if (h.tasks > kListMaxTasks) return {"too many tasks", 20, h.tasks};
    if (h.deps > kListMaxDeps) return {"too many dependencies", 24, h.deps};
    if (h.ops > kListMaxOps) return {"too many operations", 28, h.ops};
    if (h.world > kListMaxWorld || h.rank >= h.world) return {"the rank is not in the world", 32, h.rank};
    if ((h.flags & ~(kListCapture | kListTimed)) != 0) return {"unknown flags", 40, h.flags};
    if (h.reserved != 0) return {"a reserved field is not zero", 56, h.reserved};
    const uint64_t fixed = sizeof(ListHeader) + uint64_t{8} * h.buffers + sizeof(ListTask) * uint64_t{h.tasks} +
                           (uint64_t{4} * h.deps + 7) / 8 * 8;
    if (fixed > bytes) return {"the sections exceed the list", 8, fixed};
    buffers_ = data + sizeof(ListHeader);
    tasks_ = buffers_ + size_t{8} * h.buffers;
    deps_ = tasks_ + sizeof(ListTask) * h.tasks;
    ops_ = data + fixed;
    return h.deps % 2 != 0 && load<uint32_t>(ops_ - 4) != 0 ? ListFault{"the padding is not zero", fixed - 4, 0} : fine();
  }

  ListFault sizes_match(const uint64_t* sizes, uint32_t count) const {
    if (count != header.buffers) return {"the list is for another number of buffers", header.buffers, count};
    for (uint32_t i = 0; i < count; ++i) {
      if (sizes[i] != buffer_size(i)) return {"a buffer has another size than the list says", i, sizes[i]};
    }
    return fine();
  }

  ListFault walk(const uint8_t* end) {
    const uint8_t* at = ops_;
    uint32_t deps = 0, ops = 0;
    ListPlace last[kChannels] = {{0, 0, false}, {0, 0, false}};
    for (uint32_t i = 0; i < header.tasks; ++i) {
      const ListTask t = task(i);
      ListFault fault = check_task(t, i, deps, ops);
      if (fault.text != nullptr) return fault;
      deps += t.deps;
      uint32_t groups = 0;
      for (uint32_t k = 0; k < t.ops; ++k, ++ops) {
        ListOp op;
        fault = check_op(at, end, ops, &op);
        if (fault.text == nullptr && op.code >= kOpSend) {
          if (++groups > 1) return {"a task has more than one group of transfers", i, groups};
          fault = check_group(op, t, ops, last);
        }
        if (fault.text != nullptr) return fault;
        at = op.body + op.bytes;
      }
    }
    if (deps != header.deps) return {"dependencies that no task has", deps, header.deps};
    if (ops != header.ops) return {"operations that no task has", ops, header.ops};
    return at == end ? fine() : ListFault{"bytes behind the last operation", ops, static_cast<uint64_t>(end - at)};
  }

  ListFault check_task(const ListTask& t, uint32_t i, uint32_t first_dep, uint32_t first_op) const {
    if (t.kind >= kTaskKinds) return {"unknown kind of task", i, t.kind};
    const uint32_t stream = t.kind == kTaskA2E ? kStreamA2E : t.kind == kTaskE2A ? kStreamE2A : kStreamCompute;
    if (t.stream != stream) return {"a task is on a stream that is not its kind's", i, t.stream};
    if (t.reserved != 0) return {"a reserved field of a task is not zero", i, t.reserved};
    if (t.first_dep != first_dep || t.deps > header.deps - first_dep) return {"a task's dependencies are not the next", i, t.deps};
    if (t.first_op != first_op || t.ops > header.ops - first_op) return {"a task's operations are not the next", i, t.ops};
    for (uint32_t k = 0; k < t.deps; ++k) {
      const uint32_t d = dep(first_dep + k);
      if (d >= i) return {"a task depends on one that does not come before it", i, d};
      if (k > 0 && d <= dep(first_dep + k - 1)) return {"a task's dependencies do not ascend", i, d};
    }
    return fine();
  }

  ListFault check_op(const uint8_t* at, const uint8_t* end, uint32_t number, ListOp* op) const {
    if (end - at < 8) return {"the list ends within an operation", number, static_cast<uint64_t>(end - at)};
    const uint32_t bytes = load<uint32_t>(at + 4);
    if (load<uint16_t>(at + 2) != 0) return {"a reserved field of an operation is not zero", number, load<uint16_t>(at + 2)};
    if (bytes < 8 || bytes % 8 != 0 || bytes > static_cast<uint64_t>(end - at)) return {"an operation has a wrong size", number, bytes};
    next(at, op);
    if (op->code == kOpSend || op->code == kOpReceive) return check_parts(*op, number);
    const OpLayout layout = op_layout_of(op->code);
    if (layout.matrices == 0) return {"unknown operation", number, op->code};
    const uint64_t want = sizeof(ListMatrix) * layout.matrices + layout.tail;
    if (op->bytes != want) return {"an operation has another size than its arguments", number, op->bytes};
    for (uint32_t m = 0; m < layout.matrices; ++m) {
      const ListFault fault = check_matrix(matrix(*op, m), number);
      if (fault.text != nullptr) return fault;
    }
    return fine();
  }

  ListFault check_matrix(const ListMatrix& m, uint32_t number) const {
    if (m.dtype > FINDEP_F8E4M3) return {"unknown element type", number, m.dtype};
    if (m.rows < 0 || m.rows > kListMaxSize || m.cols < 0 || m.cols > kListMaxSize || m.offset < 0) {
      return {"a matrix has an impossible shape; rows", number, static_cast<uint64_t>(m.rows)};
    }
    if (m.rows == 0) return fine();
    if (m.cols == 0 || m.stride < m.cols || m.stride > kListMaxSize) return {"a matrix has an impossible stride", number, static_cast<uint64_t>(m.stride)};
    if (m.buffer >= header.buffers) return {"a matrix lies in a buffer that there is not", number, m.buffer};
    const uint64_t element = m.dtype == FINDEP_F32 || m.dtype == FINDEP_I32 ? 4 : m.dtype == FINDEP_F8E4M3 ? 1 : 2;
    const uint64_t room = buffer_size(m.buffer) / element;
    // Rows and strides are at most 2^30, so the product stays below 2^60.
    const uint64_t need = static_cast<uint64_t>((m.rows - 1) * m.stride + m.cols);
    if (need > room || static_cast<uint64_t>(m.offset) > room - need) return {"a matrix exceeds its buffer", number, m.buffer};
    return fine();
  }

  ListFault check_parts(const ListOp& op, uint32_t number) const {
    if (op.bytes < 8 || channel(op) >= kChannels) return {"unknown channel", number, op.bytes < 8 ? 0 : channel(op)};
    const uint32_t n = parts(op);
    if (n > kListMaxParts || op.bytes != 8 + sizeof(ListPart) * uint64_t{n}) return {"a group has a wrong number of parts", number, n};
    for (uint32_t i = 0; i < n; ++i) {
      const ListPart p = part(op, i);
      if (p.peer >= header.world || p.peer == header.rank) return {"a part is for a rank that is no peer", number, p.peer};
      if (i > 0 && p.peer < part(op, i - 1).peer) return {"the parts of a group are not in the order of their ranks", number, p.peer};
      if (p.buffer >= header.buffers) return {"a part lies in a buffer that there is not", number, p.buffer};
      const uint64_t size = buffer_size(p.buffer);
      if (p.bytes == 0 || p.bytes > size || p.offset > size - p.bytes) return {"a part exceeds its buffer", number, p.bytes};
    }
    return fine();
  }

  ListFault check_group(const ListOp& op, const ListTask& t, uint32_t number, ListPlace* last) const {
    const uint32_t c = channel(op);
    if (t.stream != (c == kChannelA2E ? kStreamA2E : kStreamE2A)) return {"a group is on a stream that is not its channel's", number, t.stream};
    const uint64_t place = uint64_t{t.layer} << 32 | t.micro_batch;
    ListPlace& l = last[c];
    if (l.any && (place < l.layer_micro_batch || (place == l.layer_micro_batch && t.segment <= l.segment))) {
      return {"a group breaks the order (layer, micro-batch, segment)", number, t.segment};
    }
    l = ListPlace{place, t.segment, true};
    return fine();
  }

  const uint8_t *buffers_ = nullptr, *tasks_ = nullptr, *deps_ = nullptr, *ops_ = nullptr;
};

}  // namespace findep

#endif  // FINDEP_COMMON_TASKLIST_H
