// SPDX-License-Identifier: Apache-2.0
//
// router: logits [n,E] -> experts [n,k], weights [n,k]. One warp per token,
// which keeps the token's scores in shared memory:
//   1. scores: softmax or sigmoid, in double and rounded once, as all backends
//   2. selection scores: score + bias
//   3. with groups, the score of every group, and which of them compete
//   4. top_k times: the first of the competing experts in the order of
//      router_before that comes after the one chosen last
//   5. weights from the chosen scores

#include "common/router.h"

#include "cuda/device.cuh"

namespace findep {

namespace {

struct RouterParams {
  View<float> weights, logits;
  View<int32_t> experts;
  const float* bias;  // or NULL
  int64_t num_experts, top_k, groups, keep;
  bool sigmoid, top2, normalize;
  float scale;
};

// The shared memory of one token: E scores, E selection scores, a score per group.
FINDEP_HD int64_t router_shared_floats(int64_t experts, int64_t groups) { return 2 * experts + groups; }

__device__ void router_scores(const RouterParams& p, const float* logits, float* scores) {
  const int64_t lane = threadIdx.x, experts = p.num_experts;
  if (p.sigmoid) {
    for (int64_t e = lane; e < experts; e += kWarp) {
      scores[e] = static_cast<float>(1 / (1 + exp(-static_cast<double>(logits[e]))));
    }
    return;
  }
  double highest = -INFINITY, total = 0;
  for (int64_t e = lane; e < experts; e += kWarp) highest = fmax(highest, static_cast<double>(logits[e]));
  highest = warp_max(highest);
  for (int64_t e = lane; e < experts; e += kWarp) total += exp(static_cast<double>(logits[e]) - highest);
  total = warp_sum(total);
  for (int64_t e = lane; e < experts; e += kWarp) {
    scores[e] = static_cast<float>(exp(static_cast<double>(logits[e]) - highest) / total);
  }
}

struct Candidate {
  float value;
  int expert;  // -1 for none
};

__device__ inline bool candidate_before(Candidate a, Candidate b) {
  return b.expert < 0 ? a.expert >= 0 : a.expert >= 0 && router_before(a.value, a.expert, b.value, b.expert);
}

// The first competing expert after `last`, in every lane.
__device__ Candidate router_next(const RouterParams& p, const float* selection, const float* group_scores,
                                 Candidate last) {
  const int64_t size = p.num_experts / p.groups;
  Candidate best{0, -1};
  for (int64_t e = threadIdx.x; e < p.num_experts; e += kWarp) {
    const Candidate c{selection[e], static_cast<int>(e)};
    if (last.expert >= 0 && !candidate_before(last, c)) continue;
    if (p.groups > 1 && !router_group_kept(group_scores, p.groups, p.keep, e / size)) continue;
    if (candidate_before(c, best)) best = c;
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const Candidate other{__shfl_xor_sync(kFullWarp, best.value, lanes), __shfl_xor_sync(kFullWarp, best.expert, lanes)};
    if (candidate_before(other, best)) best = other;
  }
  return best;
}

__global__ void __launch_bounds__(kWarp) router_kernel(RouterParams p) {
  FINDEP_DYNAMIC_SHARED(float, scores);
  float* selection = scores + p.num_experts;
  float* group_scores = selection + p.num_experts;
  const int64_t lane = threadIdx.x, size = p.num_experts / p.groups;
  for (int64_t r = blockIdx.x; r < p.logits.rows; r += gridDim.x) {
    router_scores(p, p.logits.row(r), scores);
    for (int64_t e = lane; e < p.num_experts; e += kWarp) {
      selection[e] = scores[e] + (p.bias != nullptr ? p.bias[e] : 0.0f);
    }
    __syncthreads();
    for (int64_t g = lane; g < p.groups; g += kWarp) {
      group_scores[g] = router_group_score(selection + g * size, size, p.top2);
    }
    __syncthreads();
    Candidate last{0, -1};
    double total = 0;
    for (int64_t k = 0; k < p.top_k; ++k) {
      last = router_next(p, selection, group_scores, last);
      total += static_cast<double>(scores[last.expert]);
      if (lane == 0) p.experts.row(r)[k] = last.expert;
    }
    __syncthreads();  // lane 0 wrote the experts that all lanes read
    const double factor = static_cast<double>(p.scale) / (p.normalize ? total + 1e-20 : 1.0);
    for (int64_t k = lane; k < p.top_k; k += kWarp) {
      p.weights.row(r)[k] = static_cast<float>(static_cast<double>(scores[p.experts.row(r)[k]]) * factor);
    }
    __syncthreads();  // before the next token's scores
  }
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
  const int64_t bytes = router_shared_floats(a.num_experts, groups) * static_cast<int64_t>(sizeof(float));
  if (bytes > kSharedBytes) {
    FINDEP_FAIL(FINDEP_UNSUPPORTED, "%lld experts need %lld bytes of shared memory; there are %lld",
                static_cast<long long>(a.num_experts), static_cast<long long>(bytes),
                static_cast<long long>(kSharedBytes));
  }
}

}  // namespace

findep_status router(findep_stream* stream, const findep_router_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_router_args& a) {
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
    const RouterParams params{weights, logits, experts, bias.data, a.num_experts, a.top_k, groups, keep,
                              a.scoring == FINDEP_SIGMOID, a.group_top2 != 0, a.normalize != 0, a.scale};
    launch(s, router_kernel, dim3(blocks_for(logits.rows, 1)), dim3(kWarp), params,
           static_cast<size_t>(router_shared_floats(a.num_experts, groups)) * sizeof(float));
  });
}

}  // namespace findep
