// SPDX-License-Identifier: Apache-2.0

#include "common/args.h"

#include <cstdarg>
#include <cstdio>

namespace findep {

void fail(findep_status status, const char* file, int line, const char* format, ...) {
  char text[448];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  throw Failure{status, std::string(text) + " (" + file + ":" + std::to_string(line) + ")"};
}

namespace {

void check(const char* name, const findep_matrix& m) {
  FINDEP_REQUIRE(m.rows >= 0 && m.rows <= kMaxSize && m.cols >= 0 && m.cols <= kMaxSize,
                 "%s: rows %lld and columns %lld must be in [0, 2^30]", name, static_cast<long long>(m.rows),
                 static_cast<long long>(m.cols));
  if (m.rows == 0) return;
  FINDEP_REQUIRE(m.cols > 0, "%s: %lld rows without columns", name, static_cast<long long>(m.rows));
  FINDEP_REQUIRE(m.stride >= m.cols && m.stride <= kMaxSize, "%s: the stride %lld must be in [%lld, 2^30]", name,
                 static_cast<long long>(m.stride), static_cast<long long>(m.cols));
  FINDEP_REQUIRE(m.data != nullptr, "%s: %lld rows at NULL", name, static_cast<long long>(m.rows));
}

template <typename T>
View<T> view(const char* name, const findep_matrix& m, findep_dtype dtype, const char* type_name) {
  FINDEP_REQUIRE(m.dtype == dtype, "%s: element type %u; it must be %s", name, m.dtype, type_name);
  check(name, m);
  return View<T>{static_cast<T*>(m.data), m.rows, m.cols, m.stride};
}

}  // namespace

View<float> f32(const char* name, const findep_matrix& m) { return view<float>(name, m, FINDEP_F32, "F32"); }

View<int32_t> i32(const char* name, const findep_matrix& m) { return view<int32_t>(name, m, FINDEP_I32, "I32"); }

View<float> f32_vector(const char* name, const findep_matrix& m, int64_t rows) {
  View<float> v = f32(name, m);
  require_at_least(name, v.rows, 1, rows, 1);
  return v;
}

View<int32_t> i32_vector(const char* name, const findep_matrix& m, int64_t rows) {
  View<int32_t> v = i32(name, m);
  require_at_least(name, v.rows, 1, rows, 1);
  return v;
}

Weight weight(const char* name, const findep_matrix& m) {
  if (m.dtype != FINDEP_F32 && m.dtype != FINDEP_BF16 && m.dtype != FINDEP_F16) {
    FINDEP_FAIL(FINDEP_UNSUPPORTED, "%s: weights of element type %u are not supported; use F32, BF16 or F16", name,
                m.dtype);
  }
  check(name, m);
  return Weight{m.data, m.rows, m.cols, m.stride, m.dtype};
}

Weight Weight::from(int64_t r) const {
  Weight w = *this;
  w.data = static_cast<char*>(data) + r * stride * element_bytes();
  w.rows = rows - r;
  return w;
}

void require_size(const char* name, int64_t value, int64_t least) {
  FINDEP_REQUIRE(value >= least && value <= kMaxSize, "%s is %lld; it must be in [%lld, 2^30]", name,
                 static_cast<long long>(value), static_cast<long long>(least));
}

void require_shape(const char* name, int64_t rows, int64_t cols, int64_t want_rows, int64_t want_cols) {
  FINDEP_REQUIRE(rows == want_rows && (cols == want_cols || rows == 0), "%s is %lld x %lld; it must be %lld x %lld",
                 name, static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(want_rows),
                 static_cast<long long>(want_cols));
}

void require_at_least(const char* name, int64_t rows, int64_t cols, int64_t min_rows, int64_t min_cols) {
  FINDEP_REQUIRE(rows >= min_rows && (cols >= min_cols || rows == 0),
                 "%s is %lld x %lld; it must be at least %lld x %lld", name, static_cast<long long>(rows),
                 static_cast<long long>(cols), static_cast<long long>(min_rows), static_cast<long long>(min_cols));
}

void require_index(const char* name, int64_t i, int64_t value, int64_t limit) {
  FINDEP_REQUIRE(value >= 0 && value < limit, "%s[%lld] is %lld; it must be in [0, %lld)", name,
                 static_cast<long long>(i), static_cast<long long>(value), static_cast<long long>(limit));
}

int64_t require_starts(const char* name, const View<int32_t>& v, int64_t n, int64_t limit) {
  const Column<int32_t> column = v.column();
  FINDEP_REQUIRE(column[0] == 0, "%s begins with %d; it must begin with 0", name, column[0]);
  for (int64_t i = 1; i <= n; ++i) {
    FINDEP_REQUIRE(column[i] >= column[i - 1], "%s decreases from %d to %d at %lld", name, column[i - 1], column[i],
                   static_cast<long long>(i));
  }
  FINDEP_REQUIRE(column[n] <= limit, "%s ends at %d but there are only %lld places", name, column[n],
                 static_cast<long long>(limit));
  return column[n];
}

}  // namespace findep
