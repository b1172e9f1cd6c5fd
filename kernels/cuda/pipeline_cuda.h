// SPDX-License-Identifier: Apache-2.0
//
// The table's entries for pipelines, and the table itself for what lies beneath
// them.

#ifndef FINDEP_CUDA_PIPELINE_CUDA_H
#define FINDEP_CUDA_PIPELINE_CUDA_H

#include "findep/backend.h"

namespace findep {

const findep_backend& cuda_table();

findep_status pool_reserve(findep_device* device, int64_t bytes, findep_error* error);
findep_status pipeline_ids(findep_device* device, void* ids, int64_t* bytes, findep_error* error);
findep_status pipeline_open(findep_device* device, const findep_pipeline_config* config, findep_pipeline** pipeline,
                            findep_error* error);
findep_status pipeline_run(findep_pipeline* pipeline, const void* list, int64_t bytes, findep_buffer* const* buffers,
                           int64_t count, findep_error* error);
findep_status pipeline_wait(findep_pipeline* pipeline, int64_t timeout_ms, findep_error* error);
void pipeline_cancel(findep_pipeline* pipeline);
void pipeline_close(findep_pipeline* pipeline);
findep_status pipeline_times(findep_pipeline* pipeline, findep_task_time* times, int64_t count, findep_error* error);

}  // namespace findep

#endif  // FINDEP_CUDA_PIPELINE_CUDA_H
