// SPDX-License-Identifier: Apache-2.0
//
// The model of cuBLASLt must find what it is there for: one product that is right,
// and the same with one thing wrong at a time, each of which is refused or gives
// other numbers.

#include <cuda_bf16.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "cublasLt.h"

namespace {

// out [rows,out] = x [rows,in] w^T for two heads, as kernels/cuda asks for it:
// out^T = op(A) B with A = w, transposed, and B = x^T.
struct Call {
  int64_t rows = 6, in = 24, out = 10, heads = 2;
  int64_t lda = 24, ldb = 48, ldd = 20, stride_a = 240, stride_b = 24, stride_d = 10;
  int32_t transpose_a = CUBLAS_OP_T, transpose_b = CUBLAS_OP_N, pointer_mode = 0, epilogue = 1, order_a = 0;
  int32_t batch_b = 2;
  uint64_t a_rows = 24, a_cols = 10;
  cudaDataType type = CUDA_R_16BF, type_b = CUDA_R_16BF, type_d = CUDA_R_32F;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  int64_t shift_a = 0, shift_b = 0, shift_d = 0;  // elements
  uint32_t promised = 256;                        // alignment, to the heuristic
  uint64_t workspace = 1 << 20, given = 1 << 20;
};

struct Memory {
  uint16_t *a, *b;
  float* d;
  void* workspace;
};

Memory allocate() {
  void *a, *b, *d, *workspace;
  cudaMalloc(&a, 2 * 240 * sizeof(uint16_t) + 512);
  cudaMalloc(&b, 6 * 48 * sizeof(uint16_t) + 512);
  cudaMalloc(&d, 6 * 20 * sizeof(float) + 512);
  cudaMalloc(&workspace, 1 << 20);
  return Memory{static_cast<uint16_t*>(a), static_cast<uint16_t*>(b), static_cast<float*>(d), workspace};
}

// Different numbers everywhere, exact in BF16.
void fill(uint16_t* data, int count, int seed) {
  for (int i = 0; i < count; ++i) data[i] = __float2bfloat16_rn(static_cast<float>((i * 37 + seed) % 113 - 56)).bits;
}

void layout(cublasLtMatrixLayoutOpaque_t* l, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld, int32_t batch, int64_t stride) {
  cublasLtMatrixLayoutInit_internal(l, sizeof(*l), type, rows, cols, ld);
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch));
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride));
}

// Empty if the call was refused.
std::vector<float> result(const Call& c, const Memory& memory) {
  cublasLtHandle_t handle;
  cublasLtCreate(&handle);
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatmulDescInit_internal(&operation, sizeof(operation), c.compute, CUDA_R_32F);
  cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &c.transpose_a, 4);
  cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSB, &c.transpose_b, 4);
  cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_POINTER_MODE, &c.pointer_mode, 4);
  cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &c.epilogue, 4);
  cublasLtMatrixLayoutOpaque_t a, b, d;
  const int32_t heads = static_cast<int32_t>(c.heads);
  layout(&a, c.type, c.a_rows, c.a_cols, c.lda, heads, c.stride_a);
  cublasLtMatrixLayoutSetAttribute(&a, CUBLASLT_MATRIX_LAYOUT_ORDER, &c.order_a, 4);
  layout(&b, c.type_b, static_cast<uint64_t>(c.in), static_cast<uint64_t>(c.rows), c.ldb, c.batch_b, c.stride_b);
  layout(&d, c.type_d, static_cast<uint64_t>(c.out), static_cast<uint64_t>(c.rows), c.ldd, heads, c.stride_d);
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulPreferenceInit_internal(&preference, sizeof(preference));
  cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &c.workspace, 8);
  cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &c.promised, 4);
  cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &c.promised, 4);
  std::vector<float> found;
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  const float one = 1, zero = 0;
  memset(memory.d, 0, 6 * 20 * sizeof(float));
  if (cublasLtMatmulAlgoGetHeuristic(handle, &operation, &a, &b, &d, &d, &preference, 1, &best, &count) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatmul(handle, &operation, &one, memory.a + c.shift_a, &a, memory.b + c.shift_b, &b, &zero, memory.d + c.shift_d, &d,
                     memory.d + c.shift_d, &d, &best.algo, memory.workspace, c.given, nullptr) == CUBLAS_STATUS_SUCCESS) {
    found.assign(memory.d, memory.d + 6 * 20);
  }
  cublasLtDestroy(handle);
  return found;
}

// The product by its definition.
std::vector<float> expected(const Memory& m) {
  std::vector<float> want(6 * 20);
  for (int h = 0; h < 2; ++h) {
    for (int r = 0; r < 6; ++r) {
      for (int o = 0; o < 10; ++o) {
        for (int i = 0; i < 24; ++i) {
          want[static_cast<size_t>(r * 20 + h * 10 + o)] +=
              __bfloat162float(__nv_bfloat16{m.b[r * 48 + h * 24 + i]}) * __bfloat162float(__nv_bfloat16{m.a[h * 240 + o * 24 + i]});
        }
      }
    }
  }
  return want;
}

struct Defect {
  const char* name;
  std::function<void(Call&)> make;
};

const Defect kDefects[] = {
    {"A not transposed", [](Call& c) { c.transpose_a = CUBLAS_OP_N; }},
    {"A not transposed, its shape swapped as well",
     [](Call& c) { c.transpose_a = CUBLAS_OP_N, c.a_rows = 10, c.a_cols = 24; }},
    {"B transposed", [](Call& c) { c.transpose_b = CUBLAS_OP_T; }},
    {"A row by row", [](Call& c) { c.order_a = 1; }},
    {"leading dimension of A too small", [](Call& c) { c.lda = 16; }},
    {"leading dimension of A too large", [](Call& c) { c.lda = 32; }},
    {"leading dimension of B without the other head", [](Call& c) { c.ldb = 24; }},
    {"leading dimension of D without the other head", [](Call& c) { c.ldd = 10; }},
    {"leading dimension of D too small", [](Call& c) { c.ldd = 9; }},
    {"heads of A one after the other in columns", [](Call& c) { c.stride_a = 24; }},
    {"heads of B in the same place", [](Call& c) { c.stride_b = 0; }},
    {"heads of D that overlap", [](Call& c) { c.stride_d = 5; }},
    {"one head of B", [](Call& c) { c.batch_b = 1; }},
    {"inner sizes that differ", [](Call& c) { c.in = 16; }},
    {"an output more than A has", [](Call& c) { c.out = 11; }},
    {"A in F16", [](Call& c) { c.type = CUDA_R_16F; }},
    {"both in F16", [](Call& c) { c.type = c.type_b = CUDA_R_16F; }},
    {"D in 16 bits", [](Call& c) { c.type_d = CUDA_R_16BF; }},
    {"sums of another kind", [](Call& c) { c.compute = CUBLAS_COMPUTE_32F_PEDANTIC; }},
    {"factors on the device", [](Call& c) { c.pointer_mode = 1; }},
    {"an epilogue", [](Call& c) { c.epilogue = 2; }},
    {"A one element later", [](Call& c) { c.shift_a = 1; }},
    {"B eight elements later", [](Call& c) { c.shift_b = 8; }},
    {"B a row further", [](Call& c) { c.shift_b = 48; }},
    {"D beyond its memory", [](Call& c) { c.shift_d = 200; }},
    {"an address less aligned than promised", [](Call& c) { c.shift_b = 4; }},
    {"2 bytes of alignment", [](Call& c) { c.promised = 2; }},
    {"less workspace than asked for", [](Call& c) { c.promised = 4, c.given = 16; }},
    {"no workspace where it is needed", [](Call& c) { c.promised = 4, c.workspace = 0; }},
};

}  // namespace

int main() {
  const Memory memory = allocate();
  fill(memory.a, 2 * 240 + 256, 3);
  fill(memory.b, 6 * 48 + 256, 11);
  const std::vector<float> want = expected(memory);
  int wrong = 0;
  for (const uint32_t promised : {256u, 4u}) {  // without workspace and with
    Call right;
    right.promised = promised;
    if (result(right, memory) != want) {
      ++wrong;
      printf("a product that is right gives wrong numbers, with %u bytes of alignment\n", promised);
    }
  }
  for (const Defect& defect : kDefects) {
    Call call;
    defect.make(call);
    if (result(call, memory) == want) {
      ++wrong;
      printf("not found: %s\n", defect.name);
    }
  }
  printf("the model of cuBLASLt: %zu defects, %d not found\n", sizeof(kDefects) / sizeof(kDefects[0]), wrong);
  return wrong == 0 ? 0 : 1;
}
