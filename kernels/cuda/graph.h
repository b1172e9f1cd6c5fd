// SPDX-License-Identifier: Apache-2.0
//
// Graphs of lists that come again. A graph holds addresses, so it is found by
// the list and the addresses of its buffers, byte for byte: a list names its
// plan and its batch bucket, and while those stay the same, so does it.

#ifndef FINDEP_CUDA_GRAPH_H
#define FINDEP_CUDA_GRAPH_H

#include <cstdint>
#include <list>
#include <vector>

#include "cuda/pipeline_device.h"

namespace findep {

class GraphCache {
 public:
  GraphCache(PipelineDevice& device, size_t capacity) : device_(device), capacity_(capacity) {}
  ~GraphCache() { clear(); }
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // The graph of the list with the buffers at the addresses, which becomes the
  // most recently used; false if there is none.
  bool find(const uint8_t* list, uint64_t bytes, const std::vector<void*>& addresses, uint64_t* graph) {
    for (auto i = entries_.begin(); i != entries_.end(); ++i) {
      if (i->list.size() != bytes || i->addresses != addresses || memcmp(i->list.data(), list, bytes) != 0) continue;
      entries_.splice(entries_.begin(), entries_, i);
      *graph = i->graph;
      return true;
    }
    return false;
  }

  // Keeps a graph, in place of the least recently used where there are too many.
  void insert(const uint8_t* list, uint64_t bytes, const std::vector<void*>& addresses, uint64_t graph) {
    entries_.push_front(Entry{std::vector<uint8_t>(list, list + bytes), addresses, graph});
    if (entries_.size() <= capacity_) return;
    device_.graph_free(entries_.back().graph);
    entries_.pop_back();
  }

  void clear() noexcept {
    for (const Entry& e : entries_) device_.graph_free(e.graph);
    entries_.clear();
  }

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::vector<uint8_t> list;
    std::vector<void*> addresses;
    uint64_t graph;
  };

  PipelineDevice& device_;
  size_t capacity_;
  std::list<Entry> entries_;
};

}  // namespace findep

#endif  // FINDEP_CUDA_GRAPH_H
