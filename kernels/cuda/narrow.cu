// SPDX-License-Identifier: Apache-2.0
//
// Rows of F32 activations become elements of 16 bits: every thread takes eight
// neighbours of a row and head and writes 16 bytes per piece.

#include "cuda/narrow.h"

#include "cuda/narrow.cuh"

namespace findep {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kPieceAlignment = 128;  // elements

int64_t up_to(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct NarrowParams {
  HeadRows from;
  void* to;
  NarrowLayout layout;
  bool wide;
};

template <typename T, int kPieces>
__global__ void __launch_bounds__(kThreads) narrow_kernel(NarrowParams p) {
  const int64_t per_head = p.layout.head_stride / kEight, groups = p.from.rows * p.from.heads * per_head;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; g < groups; g += step) {
    const int64_t c = g % per_head * kEight, h = g / per_head % p.from.heads, r = g / per_head / p.from.heads;
    const Eight<float> values =
        load_eight(p.from.x + r * p.from.stride + h * p.from.head_stride, c, p.from.in, p.wide);
    Eight<T> narrowed[kPieces];
    for (int i = 0; i < kEight; ++i) {
      T pieces[kPieces];
      narrow_pieces<kPieces>(values.v[i], pieces);
      for (int piece = 0; piece < kPieces; ++piece) narrowed[piece].v[i] = pieces[piece];
    }
    Eight<T>* const to = static_cast<Eight<T>*>(p.to) + g;
    for (int piece = 0; piece < kPieces; ++piece) to[piece * (p.layout.piece_stride / kEight)] = narrowed[piece];
  }
}

}  // namespace

NarrowLayout narrow_layout(int64_t rows, int64_t heads, int64_t in) {
  const int64_t head = up_to(in, kEight);
  return NarrowLayout{head, heads * head, up_to(rows * heads * head, kPieceAlignment)};
}

int64_t narrow_capacity(int64_t heads, int64_t in, int pieces) {
  const int64_t piece = kNarrowedBytes / 2 / pieces / kPieceAlignment * kPieceAlignment;
  return piece / narrow_layout(1, heads, in).row_stride;
}

void narrow_rows(findep_stream& s, const HeadRows& rows, findep_dtype type, int pieces) {
  const NarrowLayout layout = narrow_layout(rows.rows, rows.heads, rows.in);
  const bool wide = is_wide(rows.x, rows.stride, sizeof(float)) && rows.head_stride % 4 == 0;
  const dim3 grid(blocks_for(rows.rows * layout.row_stride / kEight, kThreads));
  const auto kernel = type == FINDEP_F16 ? narrow_kernel<__half, 1>
                      : pieces == 1      ? narrow_kernel<__nv_bfloat16, 1>
                                         : narrow_kernel<__nv_bfloat16, kExactPieces>;
  launch(s, kernel, grid, dim3(kThreads), NarrowParams{rows, s.narrowed, layout, wide});
}

}  // namespace findep
