// SPDX-License-Identifier: Apache-2.0
//
// The experts of one rank: for every expert gather its rows, gate and up in
// one product, SwiGLU, down; then add the results to the rows in ascending
// order of the expert, so that the sum does not depend on the threads.

#include <algorithm>
#include <cstring>

#include "cpu/gemm.h"
#include "cpu/vector.h"

namespace findep {

namespace {

struct Experts {
  View<float> out, x, workspace;
  Weight gate_up, down;
  View<int32_t> start, row;
  View<float> weight;
  int64_t hidden, model;

  // Places [from, to) of the columns [at, at+cols) of the workspace.
  View<float> part(int64_t from, int64_t to, int64_t at, int64_t cols) const {
    return View<float>{workspace.row(from) + at, to - from, cols, workspace.stride};
  }

  void compute(findep_stream& stream, int worker, int64_t e) const {
    const int64_t from = start.column()[e], to = start.column()[e + 1];
    if (from == to) return;
    const View<float> in = part(from, to, 0, model), both = part(from, to, model, 2 * hidden);
    const View<float> act = part(from, to, model + 2 * hidden, hidden), result = part(from, to, model + 3 * hidden, model);
    for (int64_t i = 0; i < in.rows; ++i) {
      memcpy(in.row(i), x.row(row.column()[from + i]), static_cast<size_t>(model) * sizeof(float));
    }
    Weight up = gate_up.from(e * 2 * hidden), back = down.from(e * model);
    up.rows = 2 * hidden;
    back.rows = model;
    gemm_serial(stream, worker, both, in, up, false);
    for (int64_t i = 0; i < in.rows; ++i) swiglu_row(act.row(i), both.row(i), both.row(i) + hidden, hidden);
    gemm_serial(stream, worker, result, act, back, false);
  }

  // Adds the columns [from, to) of all results to their rows.
  void add_up(int64_t pairs, int64_t from, int64_t to) const {
    for (int64_t r = 0; r < out.rows; ++r) std::fill(out.row(r) + from, out.row(r) + to, 0.0f);
    for (int64_t p = 0; p < pairs; ++p) {
      axpy(out.row(row.column()[p]) + from, weight.column()[p], workspace.row(p) + model + 3 * hidden + from, to - from);
    }
  }
};

}  // namespace

findep_status expert_mlp(findep_stream* stream, const findep_expert_mlp_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_expert_mlp_args& a) {
    require_size("num_experts", a.num_experts, 1);
    require_size("hidden", a.hidden, 1);
    Experts m{f32("out", a.out),         f32("x", a.x),
              f32("workspace", a.workspace), weight("gate_up", a.gate_up),
              weight("down", a.down),    i32_vector("group_start", a.group_start, a.num_experts + 1),
              i32("group_row", a.group_row), f32("group_weight", a.group_weight),
              a.hidden,                  0};
    require_shape("out", m.out.rows, m.out.cols, m.x.rows, m.x.cols);
    const int64_t pairs = require_starts("group_start", m.start, a.num_experts, std::min(m.row.rows, m.weight.rows));
    for (int64_t p = 0; p < pairs; ++p) require_index("group_row", p, m.row.column()[p], m.x.rows);
    if (m.x.rows == 0) return;
    m.model = m.x.cols;
    require_shape("gate_up", m.gate_up.rows, m.gate_up.cols, a.num_experts * 2 * a.hidden, m.model);
    require_shape("down", m.down.rows, m.down.cols, a.num_experts * m.model, a.hidden);
    require_at_least("workspace", m.workspace.rows, m.workspace.cols, pairs, 3 * a.hidden + 2 * m.model);
    const double flops = 6.0 * static_cast<double>(pairs) * static_cast<double>(a.hidden * m.model);
    s.pool.run(a.num_experts, worth_sharing(flops), [&](int64_t e, int worker) { m.compute(s, worker, e); });
    m.add_up(pairs, 0, m.model);
  });
}

}  // namespace findep
