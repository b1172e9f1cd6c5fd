// SPDX-License-Identifier: Apache-2.0
//
// kernels/common is the index arithmetic of routing, packing, grouping, rope
// and paging: header-only, free of allocation and of the standard library's
// containers, compiled for the CPU and, under nvcc, for the device as well, so
// that the tests of the CPU cover what a GPU computes.

#ifndef FINDEP_COMMON_HD_H
#define FINDEP_COMMON_HD_H

#include <stdint.h>

#if defined(__CUDACC__)
#define FINDEP_HD __host__ __device__ inline
#else
#define FINDEP_HD inline
#endif

namespace findep {

// A column of a matrix: element i is data[i * stride]. Offsets are 64 bits
// wide because slots times row lengths exceed 32.
template <typename T>
struct Column {
  T* data;
  int64_t stride;

  FINDEP_HD T& operator[](int64_t i) const { return data[i * stride]; }
};

}  // namespace findep

#endif  // FINDEP_COMMON_HD_H
