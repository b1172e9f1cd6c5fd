// SPDX-License-Identifier: Apache-2.0
//
// matmul: out [n,out] (+)= x [n,in] w^T, and head_matmul, the same for every
// head with a weight of its own. F32 weights go to cuBLAS, which takes the heads
// as a strided batch; others to the tiles of gemm.cuh, one block per 64 x 64
// elements of a head's result.

#include "cuda/gemm.cuh"

namespace findep {

namespace {

constexpr int64_t kMaxGridYZ = 65535;

// W_h(o,i) = w.data[h*head_stride + o*output_stride + i*input_stride].
struct HeadWeight {
  Weight w;
  int64_t head_stride, output_stride, input_stride;
};

struct Product {
  float* out;
  const float* x;
  int64_t n, in, outputs, heads;
  int64_t x_stride, out_stride;            // between rows
  int64_t x_head_stride, out_head_stride;  // between heads
  bool accumulate;
};

template <typename T>
struct MatmulParams {
  Product p;
  const T* w;
  int64_t head_stride, output_stride, input_stride;
};

template <typename T>
__global__ void __launch_bounds__(kTileThreads) matmul_kernel(MatmulParams<T> m) {
  __shared__ GemmShared<1> shared;
  const Product& p = m.p;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  const T* w = m.w + blockIdx.z * m.head_stride + first * m.output_stride;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kTile;
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * kTile; row < p.n; row += step) {
    const float* x = p.x + row * p.x_stride + blockIdx.z * p.x_head_stride;
    float* out = p.out + row * p.out_stride + blockIdx.z * p.out_head_stride + first;
    gemm_tile<1>(
        shared, p.n - row, p.outputs - first, p.in, [&](int i, int64_t c) { return x[i * p.x_stride + c]; },
        [&](int, int o, int64_t c) { return widen(w[o * m.output_stride + c * m.input_stride]); },
        [&](int i, int o, const float* sums) {
          float& to = out[i * p.out_stride + o];
          to = p.accumulate ? to + sums[0] : sums[0];
        });
  }
}

// Row-major matrices are column-major ones transposed, so out^T = W x^T is what
// cuBLAS is asked for.
void with_cublas(findep_stream& s, const Product& p, const HeadWeight& w) {
  const float one = 1, beta = p.accumulate ? 1 : 0;
  const bool rows_are_outputs = w.input_stride == 1 && w.output_stride == w.w.stride;
  FINDEP_BLAS(blas().gemm_strided_batched(
      s.blas, rows_are_outputs ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, p.outputs, p.n, p.in, &one, w.w.data,
      CUDA_R_32F, w.w.stride, w.head_stride, p.x, CUDA_R_32F, p.x_stride, p.x_head_stride, &beta, p.out, CUDA_R_32F,
      p.out_stride, p.out_head_stride, p.heads, CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_GEMM_DEFAULT));
}

void multiply(findep_stream& s, const Product& p, const HeadWeight& w) {
  if (w.w.dtype == FINDEP_F32) return with_cublas(s, p, w);
  if (p.heads > kMaxGridYZ) {
    FINDEP_FAIL(FINDEP_UNSUPPORTED, "heads is %lld; a grid has at most %lld", static_cast<long long>(p.heads),
                static_cast<long long>(kMaxGridYZ));
  }
  const int64_t row_tiles = (p.n + kTile - 1) / kTile;
  const dim3 grid(blocks_for(p.outputs, kTile), static_cast<unsigned>(row_tiles < kMaxGridYZ ? row_tiles : kMaxGridYZ),
                  static_cast<unsigned>(p.heads));
  with_type(w.w, [&](auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    launch(s, matmul_kernel<T>, grid, dim3(kTileThreads),
           MatmulParams<T>{p, data, w.head_stride, w.output_stride, w.input_stride});
  });
}

}  // namespace

findep_status matmul(findep_stream* stream, const findep_matmul_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_matmul_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("w", a.w);
    require_shape("out", out.rows, out.cols, x.rows, w.rows);
    if (x.rows == 0) return;
    require_shape("w", w.rows, w.cols, out.cols, x.cols);
    multiply(s, Product{out.data, x.data, x.rows, x.cols, out.cols, 1, x.stride, out.stride, 0, 0, a.accumulate != 0},
             HeadWeight{w, 0, w.stride, 1});
  });
}

findep_status head_matmul(findep_stream* stream, const findep_head_matmul_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_head_matmul_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("w", a.w);
    require_size("heads", a.heads, 1);
    require_size("in_size", a.in_size, 1);
    require_size("out_size", a.out_size, 1);
    require_size("x_stride", a.x_stride, 1);
    require_size("out_stride", a.out_stride, a.out_size);
    require_size("w_stride", a.w_stride, 0);
    const bool transposed = a.transposed != 0;
    const int64_t w_rows = transposed ? a.out_size : a.in_size, w_cols = transposed ? a.in_size : a.out_size;
    require_at_least("w", w.rows, w.cols, (a.heads - 1) * a.w_stride + w_rows, w_cols);
    require_at_least("x", x.rows, x.cols, out.rows, (a.heads - 1) * a.x_stride + a.in_size);
    require_at_least("out", out.rows, out.cols, x.rows, (a.heads - 1) * a.out_stride + a.out_size);
    if (x.rows == 0) return;
    multiply(s,
             Product{out.data, x.data, x.rows, a.in_size, a.out_size, a.heads, x.stride, out.stride, a.x_stride,
                     a.out_stride, false},
             HeadWeight{w, a.w_stride * w.stride, transposed ? w.stride : 1, transposed ? 1 : w.stride});
  });
}

}  // namespace findep
