// SPDX-License-Identifier: Apache-2.0
//
// The model of tensor cores multiplies, and finds what hardware would not forgive.

#include <cstdio>
#include <cstring>

#include "mma.h"

namespace {

using namespace nvcuda;

constexpr int kLd = 24;

// x and w are 16 x 16 in rows of kLd; out = x w^T in rows of 16.
struct Params {
  alignas(32) __nv_bfloat16 x[16 * kLd + 16], w[16 * kLd + 16];
  alignas(32) float out[16 * 16];
};

template <int kDefect>
void multiply(Params& p) {
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::col_major> b;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::row_major> transposed;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
  wmma::fill_fragment(sums, 0.0f);
  const unsigned lane = threadIdx.x;
  wmma::load_matrix_sync(a, p.x + (kDefect == 1 ? 8 : kDefect == 2 && lane > 15 ? 16 : 0), kDefect == 3 ? kLd - 8 : kLd);
  wmma::load_matrix_sync(b, p.w, kDefect == 4 ? kLd + 1 : kLd);
  wmma::load_matrix_sync(transposed, p.w, kLd);
  if (kDefect == 5 && lane == 7) return;
  if (kDefect == 6) {
    wmma::mma_sync(sums, a, transposed, sums);
  } else {
    wmma::mma_sync(sums, a, b, sums);
  }
  wmma::store_matrix_sync(p.out, sums, 16, kDefect == 7 ? wmma::mem_col_major : wmma::mem_row_major);
}

template <int kDefect>
bool right() {
  static Params p;
  for (int i = 0; i < 16 * kLd + 16; ++i) {
    p.x[i] = __float2bfloat16_rn(static_cast<float>(i * 37 % 113 - 56));
    p.w[i] = __float2bfloat16_rn(static_cast<float>(i * 53 % 97 - 48));
  }
  if (cuda_shim::launch([] { multiply<kDefect>(p); }, dim3(1), dim3(32), 0) != cudaSuccess) return false;
  for (int r = 0; r < 16; ++r) {
    for (int o = 0; o < 16; ++o) {
      float sum = 0;
      for (int c = 0; c < 16; ++c) sum += __bfloat162float(p.x[r * kLd + c]) * __bfloat162float(p.w[o * kLd + c]);
      if (p.out[r * 16 + o] != sum) return false;
    }
  }
  return true;
}

}  // namespace

int main() {
  const bool found[] = {!right<1>(), !right<2>(), !right<3>(), !right<4>(), !right<5>(), !right<6>(), !right<7>()};
  const char* const names[] = {"an address at 16 bytes",      "lanes that load different matrices", "a wrong leading dimension",
                               "columns at odd addresses",    "a lane that is missing",             "B not transposed",
                               "the result column by column"};
  int wrong = right<0>() ? 0 : 1;
  if (wrong != 0) printf("a product that is right gives wrong numbers\n");
  for (size_t i = 0; i < sizeof(found) / sizeof(found[0]); ++i) {
    if (found[i]) continue;
    ++wrong;
    printf("not found: %s\n", names[i]);
  }
  printf("the model of tensor cores: %zu defects, %d not found\n", sizeof(found) / sizeof(found[0]), wrong);
  return wrong == 0 ? 0 : 1;
}
