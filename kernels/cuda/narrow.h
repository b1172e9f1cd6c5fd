// SPDX-License-Identifier: Apache-2.0
//
// Rows of F32 activations into a stream's scratch, as elements of 16 bits.

#ifndef FINDEP_CUDA_NARROW_H
#define FINDEP_CUDA_NARROW_H

#include <cstdint>

#include "findep/backend.h"

struct findep_stream;

namespace findep {

// What a stream has for them. Products of more rows take them in turns.
constexpr int64_t kNarrowedBytes = int64_t{32} << 20;

// x[r*stride + h*head_stride + i] for heads h and i < in.
struct HeadRows {
  const float* x;
  int64_t rows, heads, in;
  int64_t stride, head_stride;
};

// Piece p of element (r, h, i) goes to element p*piece_stride + r*row_stride +
// h*head_stride + i of the scratch, zero for i in [in, head_stride). Heads are
// aligned to 16 bytes, pieces to 256.
struct NarrowLayout {
  int64_t head_stride, row_stride, piece_stride;
};

NarrowLayout narrow_layout(int64_t rows, int64_t heads, int64_t in);

// How many rows fit the scratch at once, in `pieces` pieces; 0 if not one does.
int64_t narrow_capacity(int64_t heads, int64_t in, int pieces);

// Enqueues the rows, at most as many as fit. type is BF16, in one piece or three,
// or F16, in one.
void narrow_rows(findep_stream& stream, const HeadRows& rows, findep_dtype type, int pieces);

}  // namespace findep

#endif  // FINDEP_CUDA_NARROW_H
