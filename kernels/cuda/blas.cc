// SPDX-License-Identifier: Apache-2.0

#include "cuda/blas.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "cuda/internal.h"

namespace findep {

#if defined(FINDEP_CUDA_SHIM)

const Blas& blas() {
  static const Blas shim{cublasCreate,         cublasDestroy,         cublasSetStream, cublasSetWorkspace, cublasSetMathMode,
                         cublasGetStatusString, cublasGemmStridedBatchedEx_64};
  return shim;
}

#else

namespace {

// The macros of cublas_v2.h give some functions other names than they have.
#define FINDEP_NAME_OF(function) FINDEP_TEXT_OF(function)
#define FINDEP_TEXT_OF(name) #name

constexpr const char* kLibrary = "libcublas.so.13";

// kLibrary in the folder of this library, or empty.
std::string beside() {
  Dl_info self;
  if (dladdr(reinterpret_cast<const void*>(&blas), &self) == 0 || self.dli_fname == nullptr) return "";
  const std::string path = self.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1) + kLibrary;
}

void* open_library() {
  const char* named = getenv("FINDEP_CUBLAS_LIBRARY");
  const std::string near = beside();
  void* library = nullptr;
  if (named != nullptr && *named != 0) {
    library = dlopen(named, RTLD_NOW | RTLD_LOCAL);
  } else {
    if (!near.empty()) library = dlopen(near.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    FINDEP_FAIL(FINDEP_NO_LIBRARY,
                "%.200s; install NVIDIA's cuBLAS for CUDA 13 (libcublas.so.13 and libcublasLt.so.13) on the loader's path or "
                "beside this library, or name it in FINDEP_CUBLAS_LIBRARY",
                dlerror());
  }
  return library;
}

template <typename Function>
void find(void* library, const char* name, Function* function) {
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr) {
    FINDEP_FAIL(FINDEP_VERSION_MISMATCH, "the cuBLAS that was found has no %s: install that of CUDA 13", name);
  }
  *function = reinterpret_cast<Function>(symbol);
}

Blas load() {
  void* const library = open_library();
  Blas b{};
  find(library, FINDEP_NAME_OF(cublasCreate), &b.create);
  find(library, FINDEP_NAME_OF(cublasDestroy), &b.destroy);
  find(library, FINDEP_NAME_OF(cublasSetStream), &b.set_stream);
  find(library, FINDEP_NAME_OF(cublasSetWorkspace), &b.set_workspace);
  find(library, FINDEP_NAME_OF(cublasSetMathMode), &b.set_math_mode);
  find(library, FINDEP_NAME_OF(cublasGetStatusString), &b.status_string);
  find(library, FINDEP_NAME_OF(cublasGemmStridedBatchedEx_64), &b.gemm_strided_batched);
  return b;
}

}  // namespace

const Blas& blas() {
  static const Blas loaded = load();  // tried again after a failure
  return loaded;
}

#endif

}  // namespace findep
