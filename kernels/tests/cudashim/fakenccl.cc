// SPDX-License-Identifier: Apache-2.0
//
// A libnccl.so.2 for ranks that are threads of one process and streams that run
// at once: transfers go through mailboxes. A send leaves its data there and goes
// on; a receive waits for them. Environment variables make it fail:
//
//   FAKENCCL_VERSION   what ncclGetVersion says, such as 22809
//   FAKENCCL_FAIL      a call, such as ncclSend, that returns ncclRemoteError
//   FAKENCCL_HANG      if set, ranks never meet
//
// Like NCCL's, calls on a communicator without blocking may be in progress when
// they return: here each first answer of ncclCommGetAsyncError says so.

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "nccl.h"

namespace {

// What the ranks that met by one id share.
struct World {
  std::mutex mutex;
  std::condition_variable changed;
  int met = 0;
  bool aborted = false;
  std::map<std::pair<int, int>, std::deque<std::vector<char>>> mail;  // from, to
};

std::mutex worlds_mutex;
std::map<std::string, std::shared_ptr<World>> worlds;
int next_id = 0;

ncclResult_t injected(const char* call) {
  const char* fail = getenv("FAKENCCL_FAIL");
  return fail != nullptr && strcmp(fail, call) == 0 ? ncclRemoteError : ncclSuccess;
}

struct Pending {
  ncclComm_t comm;
  bool send;
  void* data;
  size_t bytes;
  int peer;
};

thread_local std::vector<Pending> group;

}  // namespace

struct ncclComm {
  std::shared_ptr<World> world;
  int rank, ranks;
  bool reported = false;
};

namespace {

ncclResult_t transfer(const Pending& p) {
  World& w = *p.comm->world;
  std::unique_lock<std::mutex> lock(w.mutex);
  if (p.send) {
    const char* from = static_cast<const char*>(p.data);
    w.mail[{p.comm->rank, p.peer}].emplace_back(from, from + p.bytes);
    w.changed.notify_all();
    return ncclSuccess;
  }
  auto& box = w.mail[{p.peer, p.comm->rank}];
  if (!w.changed.wait_for(lock, std::chrono::seconds(20), [&] { return !box.empty() || w.aborted; })) return ncclRemoteError;
  if (box.empty()) return ncclRemoteError;
  if (box.front().size() != p.bytes) return ncclInvalidUsage;
  memcpy(p.data, box.front().data(), p.bytes);
  box.pop_front();
  return ncclSuccess;
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT ncclResult_t ncclGetVersion(int* version) {
  const char* text = getenv("FAKENCCL_VERSION");
  *version = text == nullptr ? NCCL_VERSION_CODE : atoi(text);
  return ncclSuccess;
}

EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::lock_guard<std::mutex> lock(worlds_mutex);
  memset(id, 0, sizeof(*id));
  const std::string name = "world " + std::to_string(next_id++);
  memcpy(id->internal, name.c_str(), name.size());
  return injected("ncclGetUniqueId");
}

EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*) {
  if (injected("ncclCommInitRankConfig") != ncclSuccess) return ncclRemoteError;
  std::lock_guard<std::mutex> lock(worlds_mutex);
  std::shared_ptr<World>& world = worlds[id.internal];
  if (world == nullptr) world = std::make_shared<World>();
  *comm = new ncclComm{world, rank, ranks};
  std::lock_guard<std::mutex> inside(world->mutex);
  ++world->met;
  return ncclInProgress;
}

EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  World& w = *comm->world;
  std::lock_guard<std::mutex> lock(w.mutex);
  if (w.aborted || injected("ncclCommGetAsyncError") != ncclSuccess) {
    *error = ncclRemoteError;
  } else if (w.met < comm->ranks || getenv("FAKENCCL_HANG") != nullptr || !comm->reported) {
    comm->reported = true;
    *error = ncclInProgress;
  } else {
    *error = ncclSuccess;
  }
  return ncclSuccess;
}

EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}

EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    std::lock_guard<std::mutex> lock(comm->world->mutex);
    comm->world->aborted = true;
    comm->world->changed.notify_all();
  }
  delete comm;
  return ncclSuccess;
}

EXPORT ncclResult_t ncclCommRegister(const ncclComm_t, void* data, size_t, void** handle) {
  *handle = data;
  return ncclSuccess;
}

EXPORT ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }

EXPORT ncclResult_t ncclGroupStart() {
  group.clear();
  return ncclSuccess;
}

// Sends first: a group is one, so none of its parts may wait for another.
EXPORT ncclResult_t ncclGroupEnd() {
  if (injected("ncclGroupEnd") != ncclSuccess) return ncclRemoteError;
  ncclResult_t result = ncclSuccess;
  for (const bool send : {true, false}) {
    for (const Pending& p : group) {
      if (p.send == send && result == ncclSuccess) result = transfer(p);
    }
  }
  group.clear();
  return result;
}

EXPORT ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t) {
  if (injected("ncclSend") != ncclSuccess) return ncclRemoteError;
  group.push_back(Pending{comm, true, const_cast<void*>(data), count, peer});
  return ncclSuccess;
}

EXPORT ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t) {
  if (injected("ncclRecv") != ncclSuccess) return ncclRemoteError;
  group.push_back(Pending{comm, false, data, count, peer});
  return ncclSuccess;
}

EXPORT const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInvalidUsage: return "invalid usage";
    default: return "error";
  }
}

}  // extern "C"
