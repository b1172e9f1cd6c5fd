// SPDX-License-Identifier: Apache-2.0
//
// Rotary position embedding (Su et al., RoFormer, equation 34): pair i of a
// head of size dim turns by the angle position * theta^(-2i/dim).

#ifndef FINDEP_COMMON_ROPE_H
#define FINDEP_COMMON_ROPE_H

#include "common/hd.h"

namespace findep {

struct RopePair {
  int64_t first, second;
};

// The columns of pair i: neighbours (DeepSeek) or half a head apart (Qwen3).
FINDEP_HD RopePair rope_pair(int64_t dim, int64_t i, bool interleaved) {
  return interleaved ? RopePair{2 * i, 2 * i + 1} : RopePair{i, i + dim / 2};
}

// Turns pair i of the head at v; angles holds dim/2 cosines, then sines.
FINDEP_HD void rope_rotate(float* v, const float* angles, int64_t dim, int64_t i, bool interleaved) {
  const RopePair pair = rope_pair(dim, i, interleaved);
  const float cosine = angles[i], sine = angles[dim / 2 + i];
  const float x = v[pair.first], y = v[pair.second];
  v[pair.first] = x * cosine - y * sine;
  v[pair.second] = x * sine + y * cosine;
}

}  // namespace findep

#endif  // FINDEP_COMMON_ROPE_H
