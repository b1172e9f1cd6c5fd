// SPDX-License-Identifier: Apache-2.0
//
// Transfers between ranks as a pipeline sees them: groups of sends or receives
// on one of two channels, A2E and E2A, each with a communicator and a stream of
// its own, so that both directions run beside each other. comm_nccl.cc does it
// with NCCL; NVSHMEM or DeepEP would be further implementations.
//
// The order that every rank keeps on a channel: groups by (layer, micro-batch,
// segment), within a group parts by peer, and for one peer the counts before
// the payload. A group starts and ends as one: none of its parts waits for
// another.

#ifndef FINDEP_CUDA_COMM_H
#define FINDEP_CUDA_COMM_H

#include <cstdint>

#include "common/failure.h"
#include "common/tasklist.h"

namespace findep {

struct Transfer {
  uint32_t peer;
  void* data;
  uint64_t bytes;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  // Enqueues a group on the channel's stream.
  virtual void group(uint32_t channel, bool send, const Transfer* parts, uint32_t count) = 0;
  // Makes a range of device memory known, so that transfers need no copy of
  // their own; forgotten at the next epoch. What cannot be registered is
  // transferred all the same.
  virtual void register_memory(void* data, uint64_t bytes) = 0;
  // Throws when a peer or a link has failed since.
  virtual void poll() = 0;
  // Ends all transfers at once; every later call but this one throws.
  virtual void abort() noexcept = 0;
};

}  // namespace findep

#endif  // FINDEP_CUDA_COMM_H
