// SPDX-License-Identifier: Apache-2.0

#include "common/router.h"

#include <cmath>
#include <vector>

#include "cpu/internal.h"

namespace findep {

namespace {

// Scores in double, rounded once, so that backends agree on near ties.
void softmax(float* scores, const float* logits, int64_t experts) {
  double highest = -INFINITY, total = 0;
  for (int64_t e = 0; e < experts; ++e) highest = std::fmax(highest, static_cast<double>(logits[e]));
  for (int64_t e = 0; e < experts; ++e) total += std::exp(logits[e] - highest);
  for (int64_t e = 0; e < experts; ++e) scores[e] = static_cast<float>(std::exp(logits[e] - highest) / total);
}

void sigmoid(float* scores, const float* logits, int64_t experts) {
  for (int64_t e = 0; e < experts; ++e) {
    scores[e] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(logits[e]))));
  }
}

void weigh(float* weights, const int32_t* experts, const float* scores, const findep_router_args& a) {
  double total = 0, factor = a.scale;
  for (int64_t k = 0; k < a.top_k; ++k) total += scores[experts[k]];
  if (a.normalize != 0) factor /= total + 1e-20;
  for (int64_t k = 0; k < a.top_k; ++k) weights[k] = static_cast<float>(scores[experts[k]] * factor);
}

void check(const findep_router_args& a, int64_t groups, int64_t keep) {
  require_size("num_experts", a.num_experts, 1);
  require_size("top_k", a.top_k, 1);
  require_size("groups", groups, 1);
  FINDEP_REQUIRE(a.scoring <= FINDEP_SIGMOID, "unknown scoring %u", a.scoring);
  FINDEP_REQUIRE(a.scale != 0, "scale is 0, which would lose every expert's output; use 1 for no scaling");
  FINDEP_REQUIRE(a.num_experts % groups == 0, "%lld experts do not divide into %lld groups",
                 static_cast<long long>(a.num_experts), static_cast<long long>(groups));
  FINDEP_REQUIRE(keep >= 1 && keep <= groups, "top_k_groups is %lld of %lld groups", static_cast<long long>(keep),
                 static_cast<long long>(groups));
  FINDEP_REQUIRE(a.top_k <= keep * (a.num_experts / groups), "top_k is %lld but only %lld experts compete",
                 static_cast<long long>(a.top_k), static_cast<long long>(keep * (a.num_experts / groups)));
}

}  // namespace

findep_status router(findep_stream* stream, const findep_router_args* args) {
  return on_stream(stream, args, [](findep_stream&, const findep_router_args& a) {
    const View<float> weights = f32("weights", a.weights), logits = f32("logits", a.logits);
    const View<int32_t> experts = i32("experts", a.experts);
    const int64_t groups = a.groups > 1 ? a.groups : 1, keep = groups > 1 ? a.top_k_groups : 1;
    check(a, groups, keep);
    const bool biased = a.bias.data != nullptr || a.bias.rows != 0;
    const View<float> bias = biased ? f32("bias", a.bias) : View<float>{};
    if (biased) require_shape("bias", bias.rows, bias.cols, 1, a.num_experts);
    require_shape("logits", logits.rows, logits.cols, logits.rows, a.num_experts);
    require_shape("weights", weights.rows, weights.cols, logits.rows, a.top_k);
    require_shape("experts", experts.rows, experts.cols, logits.rows, a.top_k);
    if (logits.rows == 0) return;
    std::vector<float> scores(static_cast<size_t>(a.num_experts)), group_scores(static_cast<size_t>(groups));
    std::vector<float> selection(scores.size());
    for (int64_t r = 0; r < logits.rows; ++r) {
      (a.scoring == FINDEP_SIGMOID ? sigmoid : softmax)(scores.data(), logits.row(r), a.num_experts);
      for (size_t e = 0; e < scores.size(); ++e) selection[e] = scores[e] + (biased ? bias.data[e] : 0.0f);
      router_select(experts.row(r), a.top_k, selection.data(), a.num_experts, groups, keep, a.group_top2 != 0,
                    group_scores.data());
      weigh(weights.row(r), experts.row(r), scores.data(), a);
    }
  });
}

}  // namespace findep
