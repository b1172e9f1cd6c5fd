// SPDX-License-Identifier: Apache-2.0

#include "cuda/comm_nccl.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

namespace findep {

namespace {

constexpr int64_t kPollMicroseconds = 50;

template <typename Function>
void find(void* library, const char* path, const char* name, Function* function) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) FINDEP_FAIL(FINDEP_NO_LIBRARY, "%s is no NCCL: it has no %s", path, name);
  memcpy(function, &symbol, sizeof(symbol));
}

// NCCL codes 2.28.9 as 22809.
struct Version {
  int major, minor, patch;
};

Version version_of(int code) { return Version{code / 10000, code % 10000 / 100, code % 100}; }

Nccl open_library(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    FINDEP_FAIL(FINDEP_NO_LIBRARY,
                "NCCL is needed between ranks and cannot be loaded: %.200s; install NVIDIA's NCCL for CUDA 13, or name "
                "libnccl.so.2 in FINDEP_NCCL_LIBRARY",
                dlerror());
  }
  Nccl n{};
  find(library, path, "ncclGetVersion", &n.get_version);
  find(library, path, "ncclGetUniqueId", &n.get_unique_id);
  find(library, path, "ncclCommInitRankConfig", &n.init_rank);
  find(library, path, "ncclCommDestroy", &n.destroy);
  find(library, path, "ncclCommAbort", &n.abort);
  find(library, path, "ncclCommGetAsyncError", &n.async_error);
  find(library, path, "ncclCommRegister", &n.register_memory);
  find(library, path, "ncclCommDeregister", &n.deregister_memory);
  find(library, path, "ncclGroupStart", &n.group_start);
  find(library, path, "ncclGroupEnd", &n.group_end);
  find(library, path, "ncclSend", &n.send);
  find(library, path, "ncclRecv", &n.receive);
  find(library, path, "ncclGetErrorString", &n.error_string);
  const Version has = version_of(n.version()), need = version_of(NCCL_VERSION_CODE);
  if (has.major != need.major || has.minor < need.minor) {
    FINDEP_FAIL(FINDEP_VERSION_MISMATCH, "%s is NCCL %d.%d.%d; %d.%d or a later %d is needed", path, has.major, has.minor,
                has.patch, need.major, need.minor, need.major);
  }
  return n;
}

}  // namespace

const Nccl& Nccl::load() {
  static std::mutex mutex;
  static Nccl loaded{};
  std::lock_guard<std::mutex> lock(mutex);
  if (loaded.get_version == nullptr) {
    const char* path = getenv("FINDEP_NCCL_LIBRARY");
    loaded = open_library(path == nullptr || *path == 0 ? "libnccl.so.2" : path);
  }
  return loaded;
}

int Nccl::version() const {
  int code = 0;
  const ncclResult_t result = get_version(&code);
  if (result != ncclSuccess) FINDEP_FAIL(FINDEP_INTERNAL, "NCCL does not tell its version: %s", error_string(result));
  return code;
}

CommIds CommIds::make() {
  const Nccl& nccl = Nccl::load();
  CommIds made{kMagic, nccl.version(), {}};
  for (ncclUniqueId& id : made.ids) {
    const ncclResult_t result = nccl.get_unique_id(&id);
    if (result != ncclSuccess) FINDEP_FAIL(FINDEP_COMM_FAILED, "NCCL makes no id for the ranks to meet by: %s", nccl.error_string(result));
  }
  return made;
}

NcclCommunicator::NcclCommunicator(const CommIds& ids, int rank, int world, std::array<cudaStream_t, kChannels> streams,
                                   PipelineClock& clock, int64_t timeout_microseconds)
    : nccl_(Nccl::load()), clock_(clock), timeout_(timeout_microseconds), streams_(streams) {
  const Version own = version_of(nccl_.version()), leader = version_of(ids.version);
  if (nccl_.version() != ids.version) {
    FINDEP_FAIL(FINDEP_COMM_VERSION, "rank %d has NCCL %d.%d.%d, the leader %d.%d.%d: run the same image on all ranks", rank,
                own.major, own.minor, own.patch, leader.major, leader.minor, leader.patch);
  }
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.maxCTAs = kChannelBlocks;
  try {
    for (uint32_t c = 0; c < kChannels; ++c) {
      settle(c, nccl_.init_rank(&comms_[c], world, ids.ids[c], rank, &config), "joining the ranks");
    }
  } catch (...) {
    abort();
    throw;
  }
}

NcclCommunicator::~NcclCommunicator() {
  for (const auto& [channel, handle] : registered_) {
    if (comms_[channel] != nullptr) nccl_.deregister_memory(comms_[channel], handle);
  }
  for (ncclComm_t& comm : comms_) {
    if (comm != nullptr) nccl_.destroy(comm);
  }
}

void NcclCommunicator::check(ncclResult_t result, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  FINDEP_FAIL(FINDEP_COMM_FAILED, "%s: NCCL: %s", what, nccl_.error_string(result));
}

// Without blocking, a call may be in progress when it returns, and nothing else
// may be asked of the communicator until it is not. It ends by itself once the
// peers have made the same call, which the common order sees to.
void NcclCommunicator::settle(uint32_t channel, ncclResult_t result, const char* what) {
  check(result, what);
  const int64_t since = clock_.now_microseconds();
  for (;;) {
    ncclResult_t state = ncclSuccess;
    check(nccl_.async_error(comms_[channel], &state), what);
    check(state, what);
    if (state == ncclSuccess) return;
    if (clock_.now_microseconds() - since > timeout_) {
      FINDEP_FAIL(FINDEP_TIMED_OUT, "%s: not all ranks have taken part within %lld ms", what,
                  static_cast<long long>(timeout_ / 1000));
    }
    clock_.sleep_microseconds(kPollMicroseconds);
  }
}

void NcclCommunicator::group(uint32_t channel, bool send, const Transfer* parts, uint32_t count) {
  const ncclComm_t comm = comms_[channel];
  if (comm == nullptr) FINDEP_FAIL(FINDEP_CANCELLED, "the transfers were aborted");
  const char* what = send ? "sending" : "receiving";
  check(nccl_.group_start(), what);
  ncclResult_t failed = ncclSuccess;
  for (uint32_t i = 0; i < count; ++i) {
    const int peer = static_cast<int>(parts[i].peer);
    const ncclResult_t result = send ? nccl_.send(parts[i].data, parts[i].bytes, ncclInt8, peer, comm, streams_[channel])
                                     : nccl_.receive(parts[i].data, parts[i].bytes, ncclInt8, peer, comm, streams_[channel]);
    if (result != ncclSuccess && result != ncclInProgress && failed == ncclSuccess) failed = result;
  }
  // A group that was begun must be ended, also where a part of it failed.
  const ncclResult_t ended = nccl_.group_end();
  check(failed, what);
  settle(channel, ended, what);
}

void NcclCommunicator::register_memory(void* data, uint64_t bytes) {
  for (uint32_t c = 0; c < kChannels; ++c) {
    void* handle = nullptr;
    if (comms_[c] == nullptr || nccl_.register_memory(comms_[c], data, bytes, &handle) != ncclSuccess) continue;
    if (handle != nullptr) registered_.emplace_back(c, handle);
  }
}

void NcclCommunicator::poll() {
  for (const ncclComm_t comm : comms_) {
    if (comm == nullptr) FINDEP_FAIL(FINDEP_CANCELLED, "the transfers were aborted");
    ncclResult_t state = ncclSuccess;
    check(nccl_.async_error(comm, &state), "asking for failures of peers");
    check(state, "a peer or a link failed");
  }
}

void NcclCommunicator::abort() noexcept {
  for (ncclComm_t& comm : comms_) {
    if (comm != nullptr) nccl_.abort(comm);
    comm = nullptr;
  }
  registered_.clear();
}

}  // namespace findep
