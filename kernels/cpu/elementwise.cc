// SPDX-License-Identifier: Apache-2.0

#include "cpu/internal.h"
#include "cpu/vector.h"

namespace findep {

findep_status swiglu(findep_stream* stream, const findep_swiglu_args* args) {
  return on_stream(stream, args, [](findep_stream&, const findep_swiglu_args& a) {
    const View<float> out = f32("out", a.out), gate_up = f32("gate_up", a.gate_up);
    require_shape("gate_up", gate_up.rows, gate_up.cols, out.rows, 2 * out.cols);
    for (int64_t r = 0; r < out.rows; ++r) swiglu_row(out.row(r), gate_up.row(r), gate_up.row(r) + out.cols, out.cols);
  });
}

findep_status add(findep_stream* stream, const findep_add_args* args) {
  return on_stream(stream, args, [](findep_stream&, const findep_add_args& v) {
    const View<float> out = f32("out", v.out), a = f32("a", v.a), b = f32("b", v.b);
    require_shape("a", a.rows, a.cols, out.rows, out.cols);
    require_shape("b", b.rows, b.cols, out.rows, out.cols);
    for (int64_t r = 0; r < out.rows; ++r) sum(out.row(r), a.row(r), b.row(r), out.cols);
  });
}

}  // namespace findep
