// SPDX-License-Identifier: Apache-2.0
//
// cuBLASLt of the model: it has four algorithms, which stand for what the library
// has and differ in what they demand, so that a caller who ignores a demand is
// found out:
//   vector  16 bits, wants A, B, their columns and heads aligned to 16 bytes
//   wide    the same for 16 columns of B or more, an even number of them only
//   split   16 bits, wants 4 bytes, and workspace of D's size, which it spoils
//   plain   F32
// For 16 bits at odd addresses there is none. Sums are in double.

#include "cublasLt.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

// What the opaque structures hold. The marks tell one from memory that was never
// made one.
struct Operation {
  uint64_t mark;
  int32_t compute, scale, pointer_mode, transpose_a, transpose_b, epilogue;
};
struct Layout {
  uint32_t mark;
  int32_t type;
  uint64_t rows, cols;
  int64_t ld, stride;
  int32_t order, batch;
};
struct Preference {
  uint64_t mark, workspace;
  uint32_t a, b, c, d;
};
enum Kind : uint64_t { kVector = 1, kWide, kSplit, kPlain };
struct Algorithm {
  uint64_t mark, kind;
  int32_t type, transpose_a;
  uint64_t rows;  // of D
};

constexpr uint32_t kMark = 0x17ca5e5u;
constexpr int64_t kMaxDimension = int64_t{1} << 31;
// Defaults of the library.
constexpr uint32_t kAlignment = 256;
constexpr int32_t kEpilogueDefault = 1;

template <typename T, typename Opaque>
bool view(const Opaque* opaque, T* as) {
  static_assert(sizeof(T) <= sizeof(Opaque), "too small");
  if (opaque == nullptr) return false;
  memcpy(as, opaque, sizeof(T));
  return as->mark == kMark;
}

template <typename T, typename Opaque>
cublasStatus_t keep(const T& value, Opaque* opaque) {
  memcpy(opaque, &value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
bool assign(T* to, const void* value, size_t size) {
  if (value == nullptr || size != sizeof(T)) return false;
  memcpy(to, value, size);
  return true;
}

int64_t size_of(int32_t type) { return type == CUDA_R_32F ? 4 : 2; }

float element(const void* data, int32_t type, int64_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return type == CUDA_R_16BF ? __bfloat162float(__nv_bfloat16{bits}) : __half2float(__half{bits});
}

// One product, all its descriptors taken together.
struct Problem {
  Operation operation;
  Layout a, b, c, d;

  int64_t m() const { return static_cast<int64_t>(d.rows); }
  int64_t n() const { return static_cast<int64_t>(d.cols); }
  int64_t k() const { return static_cast<int64_t>(b.rows); }
  bool transposed() const { return operation.transpose_a == CUBLAS_OP_T; }
};

bool sound(const Layout& l) {
  return l.order == 0 && l.rows > 0 && l.cols > 0 && l.rows < kMaxDimension && l.cols < kMaxDimension &&
         l.ld >= static_cast<int64_t>(l.rows) && l.batch > 0;
}

bool same_shape(const Layout& x, const Layout& y) {
  return x.type == y.type && x.rows == y.rows && x.cols == y.cols && x.ld == y.ld && x.stride == y.stride;
}

bool read(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
          cublasLtMatrixLayout_t d, Problem* p) {
  if (!view(desc, &p->operation) || !view(a, &p->a) || !view(b, &p->b) || !view(c, &p->c) || !view(d, &p->d)) return false;
  const Operation& o = p->operation;
  if (!sound(p->a) || !sound(p->b) || !sound(p->c) || !sound(p->d) || !same_shape(p->c, p->d)) return false;
  if (o.transpose_b != CUBLAS_OP_N || o.pointer_mode != 0 || o.epilogue != kEpilogueDefault || o.scale != CUDA_R_32F) return false;
  const bool f32 = p->a.type == CUDA_R_32F;
  if (p->a.type != p->b.type || p->d.type != CUDA_R_32F) return false;
  if (o.compute != (f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F)) return false;
  const uint64_t a_m = p->transposed() ? p->a.cols : p->a.rows, a_k = p->transposed() ? p->a.rows : p->a.cols;
  if (a_m != p->d.rows || a_k != p->b.rows || p->b.cols != p->d.cols) return false;
  if (p->a.batch != p->d.batch || p->b.batch != p->d.batch || p->c.batch != p->d.batch) return false;
  // Heads of the result must not overlap.
  return p->d.batch == 1 || p->d.stride >= static_cast<int64_t>(p->d.rows);
}

bool columns_aligned(const Layout& l, int64_t bytes) {
  return l.ld * size_of(l.type) % bytes == 0 && (l.batch == 1 || l.stride * size_of(l.type) % bytes == 0);
}

uint64_t workspace_of(const Problem& p, uint64_t kind) {
  return kind == kSplit ? static_cast<uint64_t>(p.m() * p.n() * p.d.batch) * sizeof(float) : 0;
}

// What an algorithm says about a problem without its addresses.
bool takes(const Problem& p, uint64_t kind) {
  switch (kind) {
    case kVector: return p.a.type != CUDA_R_32F && columns_aligned(p.a, 16) && columns_aligned(p.b, 16);
    case kWide: return takes(p, kVector) && p.n() % 2 == 0;
    case kSplit: return p.a.type != CUDA_R_32F && columns_aligned(p.a, 4) && columns_aligned(p.b, 4);
    default: return p.a.type == CUDA_R_32F;
  }
}

int64_t alignment_for(uint64_t kind) { return kind == kVector || kind == kWide ? 16 : 4; }

bool matches(const Problem& p, const Algorithm& chosen) {
  return chosen.type == p.a.type && chosen.transpose_a == p.operation.transpose_a && chosen.rows == p.d.rows;
}

bool aligned(const void* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0; }

// Whether all elements lie within one allocation.
bool inside(const void* data, const Layout& l) {
  const int64_t last = (l.batch - 1) * l.stride + (static_cast<int64_t>(l.cols) - 1) * l.ld + static_cast<int64_t>(l.rows) - 1;
  return cuda_shim::allocated(data, static_cast<size_t>((last + 1) * size_of(l.type)));
}

void multiply(const Problem& p, const void* a, const void* b, float* d, float alpha, float beta) {
  for (int64_t h = 0; h < p.d.batch; ++h) {
    for (int64_t j = 0; j < p.n(); ++j) {
      for (int64_t i = 0; i < p.m(); ++i) {
        double sum = 0;
        for (int64_t s = 0; s < p.k(); ++s) {
          const int64_t at = h * p.a.stride + (p.transposed() ? i * p.a.ld + s : s * p.a.ld + i);
          sum += static_cast<double>(element(a, p.a.type, at)) *
                 static_cast<double>(element(b, p.b.type, h * p.b.stride + j * p.b.ld + s));
        }
        // With beta 0 the old value, which may be NaN, is not read.
        float& to = d[h * p.d.stride + j * p.d.ld + i];
        to = alpha * static_cast<float>(sum) + (beta == 0 ? 0.0f : beta * to);
      }
    }
  }
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(malloc(1));
  return *handle == nullptr ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return free(handle), CUBLAS_STATUS_SUCCESS; }

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INVALID_VALUE ? "the model of cuBLASLt finds a contradiction" : "an error of the model of cuBLASLt";
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t size, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  if (size != sizeof(*desc)) return CUBLAS_STATUS_ALLOC_FAILED;
  return keep(Operation{kMark, compute, scale, 0, CUBLAS_OP_N, CUBLAS_OP_N, kEpilogueDefault}, desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t size) {
  Operation o;
  if (!view(desc, &o)) return CUBLAS_STATUS_INVALID_VALUE;
  int32_t& to = attribute == CUBLASLT_MATMUL_DESC_POINTER_MODE ? o.pointer_mode
                : attribute == CUBLASLT_MATMUL_DESC_TRANSA     ? o.transpose_a
                : attribute == CUBLASLT_MATMUL_DESC_TRANSB     ? o.transpose_b
                                                               : o.epilogue;
  return assign(&to, value, size) ? keep(o, desc) : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size, cudaDataType type,
                                                 uint64_t rows, uint64_t cols, int64_t ld) {
  if (size != sizeof(*layout)) return CUBLAS_STATUS_ALLOC_FAILED;
  return keep(Layout{kMark, type, rows, cols, ld, 0, 0, 1}, layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t size) {
  Layout l;
  if (!view(layout, &l)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool done = attribute == CUBLASLT_MATRIX_LAYOUT_ORDER         ? assign(&l.order, value, size)
                    : attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT ? assign(&l.batch, value, size)
                                                                      : assign(&l.stride, value, size);
  return done ? keep(l, layout) : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t size) {
  if (size != sizeof(*preference)) return CUBLAS_STATUS_ALLOC_FAILED;
  return keep(Preference{kMark, 0, kAlignment, kAlignment, kAlignment, kAlignment}, preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t size) {
  Preference p;
  if (!view(preference, &p)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool done = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES     ? assign(&p.workspace, value, size)
                    : attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES ? assign(&p.a, value, size)
                    : attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES ? assign(&p.b, value, size)
                    : attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES ? assign(&p.c, value, size)
                                                                              : assign(&p.d, value, size);
  return done ? keep(p, preference) : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  Problem p;
  Preference limits;
  if (handle == nullptr || wanted <= 0 || !read(desc, a, b, c, d, &p) || !view(preference, &limits)) return CUBLAS_STATUS_INVALID_VALUE;
  *count = 0;
  for (const uint64_t kind : {kWide, kVector, kSplit, kPlain}) {
    const int64_t alignment = alignment_for(kind);
    if (!takes(p, kind) || (kind == kWide && p.n() < 16)) continue;
    if (limits.a < alignment || limits.b < alignment || limits.c < 4 || limits.d < 4) continue;
    if (workspace_of(p, kind) > limits.workspace) continue;
    results[0] = cublasLtMatmulHeuristicResult_t{{}, workspace_of(p, kind), CUBLAS_STATUS_SUCCESS, 1, {}};
    *count = 1;
    return keep(Algorithm{kMark, kind, p.a.type, p.operation.transpose_a, p.d.rows}, &results[0].algo);
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  Problem p;
  Algorithm chosen;
  if (handle == nullptr || !read(desc, a, b, c, d, &p) || !view(algorithm, &chosen)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!matches(p, chosen) || !takes(p, chosen.kind)) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = workspace_of(p, chosen.kind);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t) {
  Problem p;
  Algorithm chosen;
  if (handle == nullptr || alpha == nullptr || beta == nullptr || !read(desc, a_layout, b_layout, c_layout, d_layout, &p) ||
      !view(algorithm, &chosen)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const uint64_t needed = workspace_of(p, chosen.kind);
  const int64_t alignment = alignment_for(chosen.kind);
  if (!matches(p, chosen) || !takes(p, chosen.kind) || c != d || workspace_bytes < needed) return CUBLAS_STATUS_INVALID_VALUE;
  if (!aligned(a, alignment) || !aligned(b, alignment) || !aligned(d, 4)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!inside(a, p.a) || !inside(b, p.b) || !inside(d, p.d)) return CUBLAS_STATUS_INVALID_VALUE;
  if (needed > 0 && (!aligned(workspace, 16) || !cuda_shim::allocated(workspace, needed))) return CUBLAS_STATUS_INVALID_VALUE;
  if (needed > 0) memset(workspace, 0xff, needed);
  multiply(p, a, b, static_cast<float*>(d), *static_cast<const float*>(alpha), *static_cast<const float*>(beta));
  return CUBLAS_STATUS_SUCCESS;
}
