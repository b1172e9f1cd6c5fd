// SPDX-License-Identifier: Apache-2.0
//
// The reader of task lists: the golden bytes that Go writes, and what it makes
// of bytes that nobody should send.

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "common/tasklist.h"

namespace findep {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes golden() {
  std::ifstream file("runtime/backend/tasklist/testdata/golden.bin", std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

std::vector<uint64_t> sizes_of(const Bytes& list) {
  uint32_t count = 0;
  std::vector<uint64_t> sizes;
  if (list.size() < sizeof(ListHeader)) return sizes;
  memcpy(&count, list.data() + offsetof(ListHeader, buffers), sizeof(count));
  for (size_t i = 0; i < count && sizeof(ListHeader) + 8 * (i + 1) <= list.size(); ++i) {
    uint64_t size;
    memcpy(&size, list.data() + sizeof(ListHeader) + 8 * i, sizeof(size));
    sizes.push_back(size);
  }
  return sizes;
}

ListFault open(TaskList* list, const Bytes& bytes) {
  const std::vector<uint64_t> sizes = sizes_of(bytes);
  return list->open(bytes.data(), bytes.size(), sizes.data(), static_cast<uint32_t>(sizes.size()));
}

// The operations of the golden list, by code.
std::vector<ListOp> ops_of(const TaskList& list) {
  std::vector<ListOp> ops(256);
  const uint8_t* at = list.ops();
  for (uint32_t i = 0; i < list.header.ops; ++i) {
    ListOp op;
    at = TaskList::next(at, &op);
    ops[op.code] = op;
  }
  return ops;
}

template <typename Args>
Args arguments(const ListOp& op) {
  const OpLayout layout = op_layout_of(op.code);
  Args args{};
  EXPECT_EQ(op.bytes, sizeof(ListMatrix) * layout.matrices + layout.tail) << op.code;
  memcpy(reinterpret_cast<char*>(&args) + sizeof(findep_matrix) * layout.matrices,
         op.body + sizeof(ListMatrix) * layout.matrices, layout.tail);
  return args;
}

TEST(TaskList, ReadsWhatGoWrites) {
  const Bytes bytes = golden();
  ASSERT_FALSE(bytes.empty()) << "run the tests from the repository's root";
  TaskList list;
  const ListFault fault = open(&list, bytes);
  ASSERT_EQ(fault.text, nullptr) << fault.text << " " << fault.value << " at " << fault.at;
  EXPECT_EQ(list.header.rank, 1u);
  EXPECT_EQ(list.header.world, 5u);
  EXPECT_EQ(list.header.plan, 0x1122334455667788u);
  EXPECT_EQ(list.header.bucket, 99u);
  EXPECT_EQ(list.header.flags, kListCapture);
  ASSERT_EQ(list.header.tasks, 5u);
  EXPECT_EQ(list.header.ops, 19u);
  const ListTask e2a = list.task(3);
  EXPECT_EQ(e2a.kind, kTaskE2A);
  EXPECT_EQ(e2a.stream, kStreamE2A);
  EXPECT_EQ(e2a.layer, 1u);
  EXPECT_EQ(e2a.micro_batch, 2u);
  EXPECT_EQ(e2a.deps, 2u);
  EXPECT_EQ(list.dep(e2a.first_dep), 1u);
  EXPECT_EQ(list.dep(e2a.first_dep + 1), 2u);
  const std::vector<ListOp> ops = ops_of(list);
  const ListMatrix out = TaskList::matrix(ops[FINDEP_OP_EMBED], 0);
  EXPECT_EQ(out.rows, 2);
  EXPECT_EQ(out.cols, 3);
  EXPECT_EQ(out.stride, 6);
  EXPECT_EQ(out.offset, 8);
  EXPECT_EQ(TaskList::channel(ops[kOpSend]), kChannelA2E);
  ASSERT_EQ(TaskList::parts(ops[kOpSend]), 2u);
  EXPECT_EQ(TaskList::part(ops[kOpSend], 0).peer, 3u);
  EXPECT_EQ(TaskList::part(ops[kOpSend], 0).bytes, 64u);
  EXPECT_EQ(TaskList::part(ops[kOpSend], 1).peer, 4u);
  EXPECT_EQ(TaskList::channel(ops[kOpReceive]), kChannelE2A);
}

TEST(TaskList, ScalarsLieWhereTheArgumentsHaveThem) {
  const Bytes bytes = golden();
  TaskList list;
  ASSERT_EQ(open(&list, bytes).text, nullptr);
  const std::vector<ListOp> ops = ops_of(list);
  EXPECT_EQ(arguments<findep_rmsnorm_args>(ops[FINDEP_OP_RMSNORM]).eps, 0.5f);
  EXPECT_EQ(arguments<findep_matmul_args>(ops[FINDEP_OP_MATMUL]).accumulate, 1u);
  const auto head = arguments<findep_head_matmul_args>(ops[FINDEP_OP_HEAD_MATMUL]);
  EXPECT_EQ((std::vector<int64_t>{head.heads, head.in_size, head.out_size, head.x_stride, head.out_stride, head.w_stride}),
            (std::vector<int64_t>{11, 12, 13, 14, 15, 16}));
  EXPECT_EQ(head.transposed, 1u);
  const auto rope = arguments<findep_rope_args>(ops[FINDEP_OP_ROPE]);
  EXPECT_EQ((std::vector<int64_t>{rope.heads, rope.head_stride, rope.offset, rope.dim, rope.interleaved}),
            (std::vector<int64_t>{21, 22, 23, 24, 1}));
  const auto attention = arguments<findep_attention_args>(ops[FINDEP_OP_ATTENTION]);
  EXPECT_EQ((std::vector<int64_t>{attention.heads, attention.kv_heads, attention.key_dim, attention.value_dim, attention.block_size}),
            (std::vector<int64_t>{31, 32, 33, 34, 35}));
  EXPECT_EQ(attention.scale, 0.25f);
  const auto router = arguments<findep_router_args>(ops[FINDEP_OP_ROUTER]);
  EXPECT_EQ((std::vector<int64_t>{router.num_experts, router.top_k, router.groups, router.top_k_groups, router.scoring, router.group_top2, router.normalize}),
            (std::vector<int64_t>{41, 42, 43, 44, FINDEP_SIGMOID, 1, 1}));
  EXPECT_EQ(router.scale, 2.5f);
  const auto group = arguments<findep_group_experts_args>(ops[FINDEP_OP_GROUP_EXPERTS]);
  EXPECT_EQ((std::vector<int64_t>{group.rows, group.num_experts}), (std::vector<int64_t>{51, 52}));
  const auto mlp = arguments<findep_expert_mlp_args>(ops[FINDEP_OP_EXPERT_MLP]);
  EXPECT_EQ((std::vector<int64_t>{mlp.num_experts, mlp.hidden}), (std::vector<int64_t>{61, 62}));
  const auto pack = arguments<PackArgs>(ops[kOpPack]);
  EXPECT_EQ((std::vector<int64_t>{pack.capacity, pack.pair_capacity, pack.ranks, pack.layer, pack.micro_batch, pack.segment}),
            (std::vector<int64_t>{71, 72, 73, 74, 75, 76}));
  const auto unpack = arguments<UnpackArgs>(ops[kOpUnpack]);
  EXPECT_EQ((std::vector<int64_t>{unpack.ranks, unpack.top_k, unpack.layer, unpack.micro_batch, unpack.segment}),
            (std::vector<int64_t>{81, 82, 83, 84, 85}));
}

TEST(TaskList, RefusesOtherBuffers) {
  const Bytes bytes = golden();
  TaskList list;
  std::vector<uint64_t> sizes = sizes_of(bytes);
  ++sizes[3];
  EXPECT_STREQ(list.open(bytes.data(), bytes.size(), sizes.data(), static_cast<uint32_t>(sizes.size())).text,
               "a buffer has another size than the list says");
  EXPECT_STREQ(list.open(bytes.data(), bytes.size(), sizes.data(), 3).text, "the list is for another number of buffers");
  EXPECT_NE(list.open(nullptr, 0, nullptr, 0).text, nullptr);
}

// The address and undefined-behaviour sanitizers watch over this one: a list of
// any bytes is refused or can be walked.
TEST(TaskList, SurvivesRandomDamage) {
  std::mt19937_64 random(1);
  const uint64_t interesting[] = {0, 1, 7, 255, 1u << 16, (1u << 30) + 1, ~uint32_t{0}, uint64_t{1} << 40, ~uint64_t{0} >> 1, ~uint64_t{0}};
  const Bytes original = golden();
  int refused = 0;
  constexpr int kTries = 200000;
  for (int i = 0; i < kTries; ++i) {
    Bytes bytes = original;
    for (uint64_t k = 0; k <= random() % 3; ++k) {
      const size_t at = random() % (bytes.size() - 8);
      const uint64_t value = interesting[random() % std::size(interesting)];
      switch (random() % 3) {
        case 0: bytes[at] = static_cast<uint8_t>(bytes[at] ^ 1u << random() % 8); break;
        case 1: memcpy(&bytes[at / 4 * 4], &value, 4); break;
        default: memcpy(&bytes[at / 8 * 8], &value, 8); break;
      }
    }
    TaskList list;
    if (open(&list, bytes).text != nullptr) {
      ++refused;
      continue;
    }
    const uint8_t* at = list.ops();
    for (uint32_t o = 0; o < list.header.ops; ++o) {
      ListOp op;
      at = TaskList::next(at, &op);
      if (op.code >= kOpSend) {
        for (uint32_t p = 0; p < TaskList::parts(op); ++p) ASSERT_LT(TaskList::part(op, p).buffer, list.header.buffers);
      }
    }
    ASSERT_EQ(at, bytes.data() + bytes.size());
  }
  EXPECT_GT(refused, kTries / 4);
  EXPECT_LT(refused, kTries);
}

}  // namespace
}  // namespace findep
