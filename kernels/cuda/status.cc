// SPDX-License-Identifier: Apache-2.0
//
// What a status of CUDA or cuBLAS means to the caller of the ABI.

#include "cuda/internal.h"

namespace findep {

namespace {

findep_status status_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation: return FINDEP_OUT_OF_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice: return FINDEP_NO_DEVICE;
    case cudaErrorInsufficientDriver: return FINDEP_DRIVER_TOO_OLD;
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice: return FINDEP_VERSION_MISMATCH;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion: return FINDEP_NO_KERNEL_IMAGE;
    case cudaErrorNotSupported: return FINDEP_UNSUPPORTED;
    // After these every call of the process fails until it starts again.
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorAssert:
    case cudaErrorDevicesUnavailable: return FINDEP_DEVICE_LOST;
    default: return FINDEP_INTERNAL;
  }
}

}  // namespace

void check_cuda(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or a later, innocent call would return it again
  const findep_status kind = status_of(status);
  fail(kind, file, line, "%.200s: %s: %s%s", what, cudaGetErrorName(status), cudaGetErrorString(status),
       kind == FINDEP_DEVICE_LOST ? "; the device is lost to this process, which must start again" : "");
}

void check_blas(cublasStatus_t status, const char* what, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const findep_status kind = status == CUBLAS_STATUS_ALLOC_FAILED    ? FINDEP_OUT_OF_MEMORY
                             : status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_ARCH_MISMATCH
                                 ? FINDEP_UNSUPPORTED
                             : status == CUBLAS_STATUS_EXECUTION_FAILED ? FINDEP_DEVICE_LOST
                                                                        : FINDEP_INTERNAL;
  fail(kind, file, line, "%.200s: %s", what, blas().status_string(status));
}

void use(const findep_device& device) { FINDEP_CUDA(cudaSetDevice(device.index)); }

}  // namespace findep
