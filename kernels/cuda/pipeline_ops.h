// SPDX-License-Identifier: Apache-2.0
//
// The operations of task lists that are not operations of the table.

#ifndef FINDEP_CUDA_PIPELINE_OPS_H
#define FINDEP_CUDA_PIPELINE_OPS_H

#include "common/operations.h"
#include "common/tasklist.h"

namespace findep {

findep_status pack(findep_stream* stream, const PackArgs* args);
findep_status unpack(findep_stream* stream, const UnpackArgs* args);

}  // namespace findep

#endif  // FINDEP_CUDA_PIPELINE_OPS_H
