// SPDX-License-Identifier: Apache-2.0
//
// rmsnorm: out[i,:] = x[i,:] / sqrt(mean(x[i,:]^2) + eps) * weight. One block
// per row:
//   1. each thread sums the squares of its columns, the block their sums
//   2. each thread scales its columns, which nobody else reads: out may be x

#include "cuda/device.cuh"

namespace findep {

namespace {

constexpr int kThreads = 256;

template <typename T>
struct RmsNormParams {
  View<float> out, x;
  const T* weight;
  float eps;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) rmsnorm_kernel(RmsNormParams<T> p) {
  __shared__ float scratch[kThreads / kWarp];
  for (int64_t r = blockIdx.x; r < p.x.rows; r += gridDim.x) {
    const float* x = p.x.row(r);
    float sum = 0;
    for (int64_t c = threadIdx.x; c < p.x.cols; c += kThreads) sum = fmaf(x[c], x[c], sum);
    const float mean = block_sum(sum, scratch) / static_cast<float>(p.x.cols);
    const float factor = 1.0f / sqrtf(mean + p.eps);
    for (int64_t c = threadIdx.x; c < p.x.cols; c += kThreads) p.out.row(r)[c] = x[c] * factor * widen(p.weight[c]);
  }
}

}  // namespace

findep_status rmsnorm(findep_stream* stream, const findep_rmsnorm_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_rmsnorm_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("weight", a.weight);
    require_shape("out", out.rows, out.cols, x.rows, x.cols);
    if (x.rows == 0) return;
    require_shape("weight", w.rows, w.cols, 1, x.cols);
    with_type(w, [&](auto* data) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
      launch(s, rmsnorm_kernel<T>, dim3(blocks_for(x.rows, 1)), dim3(kThreads), RmsNormParams<T>{out, x, data, a.eps});
    });
  });
}

}  // namespace findep
