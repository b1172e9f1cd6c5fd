// SPDX-License-Identifier: Apache-2.0
//
// Matrix products with weights as stored. Few rows are dot products of our
// own, which read each weight once and convert it in registers; more rows go
// to the BLAS, weights of two bytes in blocks that are widened into scratch.

#ifndef FINDEP_CPU_GEMM_H
#define FINDEP_CPU_GEMM_H

#include "cpu/internal.h"

namespace findep {

// The thread's scratch, at least `size` floats; its contents are undefined.
float* scratch(findep_stream& stream, int worker, int64_t size);

// Whether `flops` operations are worth waking helpers for.
inline bool worth_sharing(double flops) { return flops > 4e6; }

// out[n, w.rows] (+)= x[n, w.cols] w^T on one thread.
void gemm_serial(findep_stream& stream, int worker, View<float> out, View<float> x, const Weight& w, bool accumulate);

// The same, shared among the stream's threads.
void gemm(findep_stream& stream, View<float> out, View<float> x, const Weight& w, bool accumulate);

// out[n, w.cols] = x[n, w.rows] w on one thread.
void gemm_straight(findep_stream& stream, int worker, View<float> out, View<float> x, const Weight& w);

// F32 products for attention: out = x w^T, and out += x w.
void sgemm_nt(View<float> out, View<float> x, View<float> w);
void sgemm_nn_add(View<float> out, View<float> x, View<float> w);

}  // namespace findep

#endif  // FINDEP_CPU_GEMM_H
