// SPDX-License-Identifier: Apache-2.0
//
// embed: out[i,:] = table[ids[i],:], widened to F32. One block per row; its
// threads take the columns in turn.

#include "cuda/device.cuh"

namespace findep {

namespace {

constexpr int kThreads = 128;

template <typename T>
struct EmbedParams {
  View<float> out;
  const T* table;
  int64_t vocabulary, stride;
  Column<const int32_t> ids;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedParams<T> p) {
  for (int64_t i = blockIdx.x; i < p.out.rows; i += gridDim.x) {
    const int64_t id = p.ids[i];
    if (id < 0 || id >= p.vocabulary) continue;
    const T* row = p.table + id * p.stride;
    for (int64_t c = threadIdx.x; c < p.out.cols; c += kThreads) p.out.row(i)[c] = widen(row[c]);
  }
}

}  // namespace

findep_status embed(findep_stream* stream, const findep_embed_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_embed_args& a) {
    const View<float> out = f32("out", a.out);
    const Weight table = weight("table", a.table);
    const View<int32_t> ids = i32_vector("ids", a.ids, out.rows);
    require_shape("out", out.rows, out.cols, ids.rows, table.cols);
    if (out.rows == 0) return;
    with_type(table, [&](auto* data) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
      launch(s, embed_kernel<T>, dim3(blocks_for(out.rows, 1)), dim3(kThreads),
             EmbedParams<T>{out, data, table.rows, table.stride, ids.const_column()});
    });
  });
}

}  // namespace findep
