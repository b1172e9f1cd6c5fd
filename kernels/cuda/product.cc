// SPDX-License-Identifier: Apache-2.0

#include "cuda/product.h"

#include "cuda/internal.h"

namespace findep {

namespace {

// Far more shapes than models have; beyond, the choices are made anew.
constexpr size_t kMaxChoices = 4096;

// The largest power of two, up to what cudaMalloc gives, that divides the address.
uint32_t alignment_of(const void* data) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  uint32_t alignment = 256;
  while (address % alignment != 0) alignment /= 2;
  return alignment;
}

int64_t next_power_of_two(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// The product in cuBLASLt's words. These structures need no freeing.
struct Descriptors {
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};
};

template <typename T>
void set_operation(cublasLtMatmulDescOpaque_t& operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  FINDEP_BLAS(blas().desc_set(&operation, attribute, &value, sizeof(value)));
}

void describe_matrix(cublasLtMatrixLayoutOpaque_t& layout, cudaDataType type, int64_t rows, int64_t cols, int64_t ld,
                     int64_t batch, int64_t stride) {
  FINDEP_BLAS(blas().layout_init(&layout, sizeof(layout), type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld));
  if (batch == 1) return;
  const int32_t count = static_cast<int32_t>(batch);
  FINDEP_BLAS(blas().layout_set(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)));
  FINDEP_BLAS(blas().layout_set(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)));
}

Descriptors describe(const LtProduct& p) {
  Descriptors d;
  // Pedantic keeps products of F32 in full F32: nothing turns them into TF32, with
  // ten bits.
  const auto compute = p.type == CUDA_R_32F ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
  FINDEP_BLAS(blas().desc_init(&d.operation, sizeof(d.operation), compute, CUDA_R_32F));
  set_operation(d.operation, CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(p.transposed ? CUBLAS_OP_T : CUBLAS_OP_N));
  describe_matrix(d.a, p.type, p.transposed ? p.k : p.m, p.transposed ? p.m : p.k, p.lda, p.batch, p.stride_a);
  describe_matrix(d.b, p.type, p.k, p.n, p.ldb, p.batch, p.stride_b);
  describe_matrix(d.d, CUDA_R_32F, p.m, p.n, p.ldd, p.batch, p.stride_d);
  return d;
}

template <typename T>
void set_preference(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  FINDEP_BLAS(blas().preference_set(&preference, attribute, &value, sizeof(value)));
}

}  // namespace

LtAlgorithms::LtAlgorithms() { FINDEP_BLAS(blas().create(&handle_)); }

LtAlgorithms::~LtAlgorithms() { blas().destroy(handle_); }

LtAlgorithms::Choice LtAlgorithms::ask(const LtProduct& p) {
  Descriptors d = describe(p);
  cublasLtMatmulPreferenceOpaque_t preference{};
  FINDEP_BLAS(blas().preference_init(&preference, sizeof(preference)));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.a));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.b));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.d));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.d));
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  const cublasStatus_t status =
      blas().heuristic(handle_, &d.operation, &d.a, &d.b, &d.d, &d.d, &preference, 1, &best, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return Choice{false, {}};
  check_blas(status, "choosing an algorithm of cuBLASLt", basename_of(__FILE__), __LINE__);
  return Choice{count > 0 && best.state == CUBLAS_STATUS_SUCCESS, best.algo};
}

LtAlgorithms::Choice LtAlgorithms::remembered(const LtProduct& p) {
  const Key key{p.type,       p.transposed, p.m,        p.n,        p.k,        p.batch, p.lda,
                p.ldb,        p.ldd,        p.stride_a, p.stride_b, p.stride_d, alignment_of(p.a), alignment_of(p.b),
                alignment_of(p.d)};
  std::lock_guard<std::mutex> lock(mutex_);
  const auto known = choices_.find(key);
  if (known != choices_.end()) return known->second;
  if (choices_.size() >= kMaxChoices) choices_.clear();
  return choices_[key] = ask(p);
}

bool LtAlgorithms::choose(const LtProduct& p, cublasLtMatmulAlgo_t* algorithm) {
  LtProduct bucket = p;
  bucket.n = next_power_of_two(p.n);
  Choice choice = remembered(bucket);
  if (choice.found && bucket.n != p.n) {
    Descriptors d = describe(p);
    cublasLtMatmulHeuristicResult_t result{};
    const bool fits = blas().check(handle_, &d.operation, &d.a, &d.b, &d.d, &d.d, &choice.algorithm, &result) ==
                          CUBLAS_STATUS_SUCCESS &&
                      result.workspaceSize <= kWorkspaceBytes;
    if (!fits) choice = remembered(p);
  }
  *algorithm = choice.algorithm;
  return choice.found;
}

void multiply_lt(findep_stream& s, const LtProduct& p, const cublasLtMatmulAlgo_t& algorithm) {
  FINDEP_REQUIRE(s.workspace != nullptr, "a product on a stream that was made for transfers");
  Descriptors d = describe(p);
  const float one = 1;
  FINDEP_BLAS(blas().matmul(s.device->algorithms->handle(), &d.operation, &one, p.a, &d.a, p.b, &d.b, &p.beta, p.d, &d.d,
                            p.d, &d.d, &algorithm, s.workspace, LtAlgorithms::kWorkspaceBytes, s.stream));
}

}  // namespace findep
