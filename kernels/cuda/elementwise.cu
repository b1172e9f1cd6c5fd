// SPDX-License-Identifier: Apache-2.0
//
// add: out = a + b. swiglu: out[i,c] = SiLU(gate_up[i,c]) * gate_up[i,H+c].
// A thread takes elements in turn; the one it writes it alone has read, so that
// the sum may replace a summand.

#include "cuda/device.cuh"

namespace findep {

namespace {

constexpr int kThreads = 256;

struct AddParams {
  View<float> out, a, b;
};

__global__ void __launch_bounds__(kThreads) add_kernel(AddParams p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.out.rows * p.out.cols; i += step) {
    const int64_t r = i / p.out.cols, c = i % p.out.cols;
    p.out.row(r)[c] = p.a.row(r)[c] + p.b.row(r)[c];
  }
}

struct SwigluParams {
  View<float> out, gate_up;
};

__global__ void __launch_bounds__(kThreads) swiglu_kernel(SwigluParams p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.out.rows * p.out.cols; i += step) {
    const int64_t r = i / p.out.cols, c = i % p.out.cols;
    const float* both = p.gate_up.row(r);
    p.out.row(r)[c] = silu(both[c]) * both[p.out.cols + c];
  }
}

}  // namespace

findep_status swiglu(findep_stream* stream, const findep_swiglu_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_swiglu_args& a) {
    const View<float> out = f32("out", a.out), gate_up = f32("gate_up", a.gate_up);
    require_shape("gate_up", gate_up.rows, gate_up.cols, out.rows, 2 * out.cols);
    if (out.rows == 0) return;
    launch(s, swiglu_kernel, dim3(blocks_for(out.rows * out.cols, kThreads)), dim3(kThreads),
           SwigluParams{out, gate_up});
  });
}

findep_status add(findep_stream* stream, const findep_add_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_add_args& v) {
    const View<float> out = f32("out", v.out), a = f32("a", v.a), b = f32("b", v.b);
    require_shape("a", a.rows, a.cols, out.rows, out.cols);
    require_shape("b", b.rows, b.cols, out.rows, out.cols);
    if (out.rows == 0) return;
    launch(s, add_kernel, dim3(blocks_for(out.rows * out.cols, kThreads)), dim3(kThreads), AddParams{out, a, b});
  });
}

// The simplest kernel stands for all: they are compiled for the same devices.
void require_kernel_image(const findep_device& device) {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(add_kernel));
  if (status == cudaSuccess) return;
  cudaGetLastError();
  FINDEP_FAIL(FINDEP_NO_KERNEL_IMAGE, "no kernel image for %s (%s): build the library for its compute capability",
              device.name, cudaGetErrorName(status));
}

}  // namespace findep
