// SPDX-License-Identifier: Apache-2.0
//
// Checked views of the arguments of operations, the same for every backend.

#ifndef FINDEP_COMMON_ARGS_H
#define FINDEP_COMMON_ARGS_H

#include "common/failure.h"
#include "common/hd.h"
#include "findep/backend.h"

namespace findep {

// Sizes beyond this would make products of two and sums of those overflow.
constexpr int64_t kMaxSize = int64_t{1} << 30;

// A checked matrix of T.
template <typename T>
struct View {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  FINDEP_HD T* row(int64_t r) const { return data + r * stride; }
  // The first column as a vector.
  FINDEP_HD Column<T> column() const { return Column<T>{data, stride}; }
  FINDEP_HD Column<const T> const_column() const { return Column<const T>{data, stride}; }
};

// A checked matrix of a weight type: F32, BF16 or F16.
struct Weight {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  findep_dtype dtype = FINDEP_F32;

  int64_t element_bytes() const { return dtype == FINDEP_F32 ? 4 : 2; }
  // The same weight from row r on.
  Weight from(int64_t r) const;
};

View<float> f32(const char* name, const findep_matrix& m);
View<int32_t> i32(const char* name, const findep_matrix& m);
Weight weight(const char* name, const findep_matrix& m);

// Vectors of at least `rows` elements.
View<float> f32_vector(const char* name, const findep_matrix& m, int64_t rows);
View<int32_t> i32_vector(const char* name, const findep_matrix& m, int64_t rows);

void require_size(const char* name, int64_t value, int64_t least);
void require_shape(const char* name, int64_t rows, int64_t cols, int64_t want_rows, int64_t want_cols);
void require_at_least(const char* name, int64_t rows, int64_t cols, int64_t min_rows, int64_t min_cols);

// For backends whose memory the host addresses.

// Index i of `name` must be in [0, limit).
void require_index(const char* name, int64_t i, int64_t value, int64_t limit);
// The first n+1 elements must begin with 0, not decrease and end by limit;
// returns the last.
int64_t require_starts(const char* name, const View<int32_t>& v, int64_t n, int64_t limit);

}  // namespace findep

#endif  // FINDEP_COMMON_ARGS_H
