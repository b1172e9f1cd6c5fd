// SPDX-License-Identifier: Apache-2.0
//
// Transfers by NCCL: one communicator per channel, both of all ranks.
// libnccl.so.2 is loaded when the first pipeline is opened, so a machine without
// it can still use the rest of the backend; FINDEP_NCCL_LIBRARY names another.
//
// The two communicators run kernels at the same time. For neither to keep the
// other from starting, each takes at most kChannelBlocks blocks, far fewer than
// the multiprocessors of any supported device.

#ifndef FINDEP_CUDA_COMM_NCCL_H
#define FINDEP_CUDA_COMM_NCCL_H

#include <cuda_runtime.h>
#include <nccl.h>

#include <array>
#include <vector>

#include "cuda/comm.h"
#include "cuda/pipeline_device.h"

namespace findep {

// The functions of the library, found by name.
struct Nccl {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init_rank;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclCommRegister) register_memory;
  decltype(&ncclCommDeregister) deregister_memory;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) receive;
  decltype(&ncclGetErrorString) error_string;

  // Loads the library; throws FINDEP_NO_LIBRARY where it is absent and
  // FINDEP_VERSION_MISMATCH where it is older than the header this was built
  // with.
  static const Nccl& load();
  int version() const;
};

// What the leader makes for one epoch and all ranks get: the version of its
// library, which must be everybody's, and one id per channel.
struct CommIds {
  static constexpr uint32_t kMagic = 0x434E4446;  // "FDNC"
  uint32_t magic;
  int32_t version;
  std::array<ncclUniqueId, kChannels> ids;

  static CommIds make();
};

class NcclCommunicator : public Communicator {
 public:
  static constexpr int kChannelBlocks = 8;

  // Joins both communicators and returns when all ranks have, or throws within
  // the time-out: FINDEP_COMM_VERSION where this rank's library has another
  // version than the leader's, before anything is begun.
  NcclCommunicator(const CommIds& ids, int rank, int world, std::array<cudaStream_t, kChannels> streams,
                   PipelineClock& clock, int64_t timeout_microseconds);
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  void group(uint32_t channel, bool send, const Transfer* parts, uint32_t count) override;
  void register_memory(void* data, uint64_t bytes) override;
  void poll() override;
  void abort() noexcept override;

 private:
  void check(ncclResult_t result, const char* what);
  // Waits until the communicator has taken in what it was asked for.
  void settle(uint32_t channel, ncclResult_t result, const char* what);

  const Nccl& nccl_;
  PipelineClock& clock_;
  const int64_t timeout_;
  std::array<cudaStream_t, kChannels> streams_;
  std::array<ncclComm_t, kChannels> comms_{};
  std::vector<std::pair<uint32_t, void*>> registered_;
};

}  // namespace findep

#endif  // FINDEP_CUDA_COMM_NCCL_H
