// SPDX-License-Identifier: Apache-2.0
//
// kernels/common: rope and paged addresses; kernels/cpu: conversions, the
// exponential and the vector loops.

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "common/paged.h"
#include "common/rope.h"
#include "cpu/vector.h"

namespace findep {
namespace {

TEST(Rope, Pairs) {
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rope_pair(8, i, true).first, 2 * i);
    EXPECT_EQ(rope_pair(8, i, true).second, 2 * i + 1);
    EXPECT_EQ(rope_pair(8, i, false).first, i);
    EXPECT_EQ(rope_pair(8, i, false).second, i + 4);
  }
}

TEST(Rope, TurnsByTheAngle) {
  const float angles[] = {0, std::cos(0.5f), 1, std::sin(0.5f)};  // 90 degrees, 0.5 radians
  float v[] = {1, 2, 3, 4};
  rope_rotate(v, angles, 4, 0, true);
  EXPECT_FLOAT_EQ(v[0], -2);
  EXPECT_FLOAT_EQ(v[1], 1);
  rope_rotate(v, angles, 4, 1, false);  // elements 1 and 3
  EXPECT_FLOAT_EQ(v[1], std::cos(0.5f) - 4 * std::sin(0.5f));
  EXPECT_FLOAT_EQ(v[3], std::sin(0.5f) + 4 * std::cos(0.5f));
  EXPECT_EQ(v[2], 3);
}

TEST(Paged, Slots) {
  const int32_t table[] = {7, 0, 1 << 26};
  EXPECT_EQ(paged_slot(table, 16, 0), 112);
  EXPECT_EQ(paged_slot(table, 16, 15), 127);
  EXPECT_EQ(paged_slot(table, 16, 17), 1);
  // More slots than 32 bits count.
  EXPECT_EQ(paged_slot(table, 128, 300), (int64_t{1} << 33) + 44);
}

TEST(Paged, CausalLimit) {
  EXPECT_EQ(causal_visible(5, 5, 0), 1);
  EXPECT_EQ(causal_visible(5, 5, 4), 5);
  EXPECT_EQ(causal_visible(9, 2, 0), 8);
  EXPECT_EQ(causal_visible(9, 1, 0), 9);
}

// Every F16 against the definition of the format.
TEST(Vector, WidensEveryF16) {
  std::vector<F16> in(1 << 16);
  std::vector<float> out(in.size());
  for (size_t i = 0; i < in.size(); ++i) in[i].bits = static_cast<uint16_t>(i);
  widen(out.data(), in.data(), static_cast<int64_t>(in.size()));
  for (size_t i = 0; i < in.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31), fraction = static_cast<int>(i & 1023);
    float want = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                 : exponent < 31  ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                 : fraction == 0 ? INFINITY
                                  : NAN;
    if (i >> 15 != 0) want = -want;
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(out[i])) << i;
    } else {
      ASSERT_EQ(out[i], want) << i;
      ASSERT_EQ(std::signbit(out[i]), std::signbit(want)) << i;
    }
  }
}

TEST(Vector, WidensBF16) {
  const BF16 in[] = {{0x3f80}, {0xc000}, {0x7f80}, {0x0001}};
  float out[4];
  widen(out, in, 4);
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[1], -2);
  EXPECT_EQ(out[2], INFINITY);
  EXPECT_EQ(out[3], std::ldexp(1.0f, -133));
}

TEST(Vector, ExponentialIsAccurate) {
  double worst = 0;
  for (double x = -87; x <= 88; x += 0.00137) {
    const float f = static_cast<float>(x);
    const double want = std::exp(static_cast<double>(f));
    worst = std::max(worst, std::fabs(vector_exp(f) - want) / want);
  }
  EXPECT_LT(worst, 3e-7);
  EXPECT_EQ(vector_exp(0), 1);
  EXPECT_EQ(vector_exp(-200), 0);
  EXPECT_EQ(vector_exp(-INFINITY), 0);
  EXPECT_EQ(vector_exp(INFINITY), INFINITY);
  EXPECT_EQ(vector_exp(100), INFINITY);
  EXPECT_TRUE(std::isnan(vector_exp(NAN)));
}

TEST(Vector, MaximumLeavesNaNOut) {
  const float x[] = {1, NAN, 3, -INFINITY, 2};
  EXPECT_EQ(max_row(x, -INFINITY, 5), 3);
  EXPECT_EQ(max_row(x, 7, 5), 7);
  EXPECT_EQ(max_row(x, -INFINITY, 0), -INFINITY);
}

// Every length around the width of a vector, with unaligned rows.
TEST(Vector, DotRowsOfAllLengths) {
  std::mt19937 rng(4);
  for (int64_t n = 1; n < 70; ++n) {
    for (int64_t rows = 1; rows < 10; ++rows) {
      std::vector<float> x(static_cast<size_t>(n)), w(static_cast<size_t>(rows * (n + 1))), out(static_cast<size_t>(rows), 100);
      for (float& v : x) v = static_cast<float>(static_cast<int>(rng() % 9) - 4);
      for (float& v : w) v = static_cast<float>(static_cast<int>(rng() % 9) - 4);
      dot_rows(out.data(), x.data(), w.data(), n + 1, rows, n, true);
      for (int64_t r = 0; r < rows; ++r) {
        float want = 100;
        for (int64_t i = 0; i < n; ++i) want += x[static_cast<size_t>(i)] * w[static_cast<size_t>(r * (n + 1) + i)];
        ASSERT_EQ(out[static_cast<size_t>(r)], want) << n << " " << rows << " " << r;
      }
    }
  }
}

}  // namespace
}  // namespace findep
