// SPDX-License-Identifier: Apache-2.0
//
// Selection of experts. One token is routed in three steps: scores from logits
// (the caller's, since exp differs between devices), the groups that compete,
// the top_k experts among them. The order is total, so every device chooses
// the same experts from the same scores: larger value first, then smaller
// index; NaN is smaller than every number.

#ifndef FINDEP_COMMON_ROUTER_H
#define FINDEP_COMMON_ROUTER_H

#include "common/hd.h"

namespace findep {

// Whether (value a, index i) comes before (value b, index j).
FINDEP_HD bool router_before(float a, int64_t i, float b, int64_t j) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan || b_nan) return a_nan == b_nan ? i < j : b_nan;
  return a != b ? a > b : i < j;
}

// The score of one group of `size` selection scores: its maximum, or the sum
// of its two largest.
FINDEP_HD float router_group_score(const float* selection, int64_t size, bool top2) {
  int64_t first = 0, second = -1;
  for (int64_t e = 1; e < size; ++e) {
    if (router_before(selection[e], e, selection[first], first)) {
      second = first;
      first = e;
    } else if (second < 0 || router_before(selection[e], e, selection[second], second)) {
      second = e;
    }
  }
  return top2 && second >= 0 ? selection[first] + selection[second] : selection[first];
}

// Whether group g is among the `keep` best of `groups` group scores: its rank
// is the number of groups that come before it.
FINDEP_HD bool router_group_kept(const float* group_scores, int64_t groups, int64_t keep, int64_t g) {
  int64_t before = 0;
  for (int64_t o = 0; o < groups; ++o) {
    before += router_before(group_scores[o], o, group_scores[g], g) ? 1 : 0;
  }
  return before < keep;
}

// Inserts expert e into the `count` experts chosen so far, kept in order and
// at most top_k long; returns the new count.
FINDEP_HD int64_t router_insert(int32_t* chosen, int64_t count, int64_t top_k, const float* selection, int64_t e) {
  int64_t at = count;
  while (at > 0 && router_before(selection[e], e, selection[chosen[at - 1]], chosen[at - 1])) --at;
  if (at >= top_k) return count;
  const int64_t last = count < top_k ? count : top_k - 1;
  for (int64_t i = last; i > at; --i) chosen[i] = chosen[i - 1];
  chosen[at] = static_cast<int32_t>(e);
  return last + 1;
}

// Chooses top_k of the experts in the `keep` best groups. group_scores has
// room for `groups` values. experts must divide into the groups and at least
// top_k of them compete.
FINDEP_HD void router_select(int32_t* chosen, int64_t top_k, const float* selection, int64_t experts, int64_t groups,
                             int64_t keep, bool top2, float* group_scores) {
  const int64_t size = experts / groups;
  for (int64_t g = 0; g < groups; ++g) group_scores[g] = router_group_score(selection + g * size, size, top2);
  int64_t count = 0;
  for (int64_t g = 0; g < groups; ++g) {
    if (!router_group_kept(group_scores, groups, keep, g)) continue;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) count = router_insert(chosen, count, top_k, selection, e);
  }
}

}  // namespace findep

#endif  // FINDEP_COMMON_ROUTER_H
