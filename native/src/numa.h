#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

// NUMA nodes by their numbers, below PI_MAX_NODES; none: memory stays where the kernel has it.
using node_list = std::vector<int32_t>;

// The nodes of parameters. Throws std::runtime_error if a number is out of range.
node_list make_node_list(const int32_t * nodes, int32_t n_nodes);

// Where a model that is being loaded gets its memory. While it lives, the calling thread takes new memory from these nodes
// in turn; threads that it starts meanwhile do so until they end. With fewer than two nodes, or where that cannot be (a
// container may forbid it), all is as before: memory is near the thread that first writes to it.
class memory_placement {
  public:
    explicit memory_placement(const node_list & nodes);
    ~memory_placement();

    memory_placement(const memory_placement &)             = delete;
    memory_placement & operator=(const memory_placement &) = delete;

    // Pages of files that were mapped meanwhile, to be read only, may have been cached long before by a process on
    // another node: they move to the node, or in equal parts to the nodes. What other processes have mapped, too, stays.
    // Returns how many bytes have moved.
    uint64_t move_files() const;

  private:
    struct policy;

    const node_list          nodes_;
    const std::set<uint64_t> mapped_before_; // where mappings begin
    std::unique_ptr<policy>  before_; // none: nothing was changed
};
