// SPDX-License-Identifier: Apache-2.0

#include "cuda/blas.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "cuda/internal.h"

namespace findep {

#if defined(FINDEP_CUDA_SHIM)

const Blas& blas() {
  static const Blas shim{cublasLtCreate,
                         cublasLtDestroy,
                         cublasLtGetStatusString,
                         cublasLtMatmulDescInit_internal,
                         cublasLtMatmulDescSetAttribute,
                         cublasLtMatrixLayoutInit_internal,
                         cublasLtMatrixLayoutSetAttribute,
                         cublasLtMatmulPreferenceInit_internal,
                         cublasLtMatmulPreferenceSetAttribute,
                         cublasLtMatmulAlgoGetHeuristic,
                         cublasLtMatmulAlgoCheck,
                         cublasLtMatmul};
  return shim;
}

#else

namespace {

constexpr const char* kLibrary = "libcublasLt.so.13";

// kLibrary in the folder of this library, or empty.
std::string beside() {
  Dl_info self;
  if (dladdr(reinterpret_cast<const void*>(&blas), &self) == 0 || self.dli_fname == nullptr) return "";
  const std::string path = self.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1) + kLibrary;
}

void* open_library() {
  const char* named = getenv("FINDEP_CUBLASLT_LIBRARY");
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
                "%.200s; install NVIDIA's cuBLAS for CUDA 13 (libcublasLt.so.13) on the loader's path or beside this library, "
                "or name it in FINDEP_CUBLASLT_LIBRARY",
                dlerror());
  }
  return library;
}

template <typename Function>
void find(void* library, const char* name, Function* function) {
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr) {
    FINDEP_FAIL(FINDEP_VERSION_MISMATCH, "the cuBLASLt that was found has no %s: install that of CUDA 13", name);
  }
  *function = reinterpret_cast<Function>(symbol);
}

Blas load() {
  void* const library = open_library();
  Blas b{};
  find(library, "cublasLtCreate", &b.create);
  find(library, "cublasLtDestroy", &b.destroy);
  find(library, "cublasLtGetStatusString", &b.status_string);
  find(library, "cublasLtMatmulDescInit_internal", &b.desc_init);
  find(library, "cublasLtMatmulDescSetAttribute", &b.desc_set);
  find(library, "cublasLtMatrixLayoutInit_internal", &b.layout_init);
  find(library, "cublasLtMatrixLayoutSetAttribute", &b.layout_set);
  find(library, "cublasLtMatmulPreferenceInit_internal", &b.preference_init);
  find(library, "cublasLtMatmulPreferenceSetAttribute", &b.preference_set);
  find(library, "cublasLtMatmulAlgoGetHeuristic", &b.heuristic);
  find(library, "cublasLtMatmulAlgoCheck", &b.check);
  find(library, "cublasLtMatmul", &b.matmul);
  return b;
}

}  // namespace

const Blas& blas() {
  static const Blas loaded = load();  // tried again after a failure
  return loaded;
}

#endif

}  // namespace findep
