#include "numa.h"

#include "pipeinfer.h"

#include <stdexcept>
#include <string>

node_list make_node_list(const int32_t * nodes, int32_t n_nodes) {
    const node_list list(nodes, nodes + n_nodes);
    for (const int32_t node : list) {
        if (node < 0 || node >= PI_MAX_NODES) {
            throw std::runtime_error("NUMA nodes must be from 0 to " + std::to_string(PI_MAX_NODES - 1));
        }
    }
    return list;
}

#ifdef __linux__

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr size_t BITS_PER_WORD = 8 * sizeof(unsigned long);

// The kernel takes the number of bits plus one.
constexpr unsigned long MASK_BITS = PI_MAX_NODES + 1;

constexpr uint64_t STRIPE_BYTES = 2 << 20; // in turn: a huge page
constexpr size_t   CHUNK_PAGES  = 16384; // asked for and moved at a time: page faults of other threads wait
constexpr size_t   SAMPLE_PAGES = 1024; // of a mapping

struct byte_range {
    uint64_t first;
    uint64_t last;
};

// A copy of the pages' places, and the wish to have them elsewhere.
struct page_list {
    std::vector<void *> pages;
    std::vector<int>    nodes; // wanted
    std::vector<int>    status; // the node, or a negative errno

    void clear() {
        pages.clear();
        nodes.clear();
    }

    void add(uint64_t address, int node) {
        pages.push_back(reinterpret_cast<void *>(address));
        nodes.push_back(node);
    }

    bool ask() { return call(nullptr, 0); }
    bool move() { return call(nodes.data(), MPOL_MF_MOVE); }

  private:
    bool call(const int * wanted, int flags) {
        status.assign(pages.size(), -1);
        return syscall(SYS_move_pages, 0, pages.size(), pages.data(), wanted, status.data(), flags) >= 0;
    }
};

// Files that are mapped shared and to be read only: GGUFs, neither libraries nor what ranks share.
std::vector<byte_range> mapped_files() {
    std::vector<byte_range> found;
    FILE *                  maps = fopen("/proc/self/maps", "re");
    char *                  line = nullptr;
    size_t                  size = 0;
    while (maps && getline(&line, &size, maps) > 0) {
        unsigned long long first, last, inode;
        char               permissions[5];
        if (sscanf(line, "%llx-%llx %4s %*x %*s %llu", &first, &last, permissions, &inode) == 4 && inode != 0 &&
            std::string(permissions) == "r--s") {
            found.push_back({ first, last });
        }
    }
    free(line);
    if (maps) {
        fclose(maps);
    }
    return found;
}

std::set<uint64_t> begins_of(const std::vector<byte_range> & ranges) {
    std::set<uint64_t> begins;
    for (const byte_range & range : ranges) {
        begins.insert(range.first);
    }
    return begins;
}

int wanted_node(const node_list & nodes, uint64_t address) {
    return nodes[(address / STRIPE_BYTES) % nodes.size()];
}

// Whether more of a mapping's pages than a few are where they should not be; in turn, whether a node has too many.
bool is_far(const byte_range & range, const node_list & nodes, uint64_t page_bytes, page_list & list) {
    const uint64_t n_pages = (range.last - range.first) / page_bytes;
    const uint64_t step    = std::max<uint64_t>(1, n_pages / SAMPLE_PAGES) * page_bytes;
    list.clear();
    for (uint64_t address = range.first; address < range.last; address += step) {
        list.add(address, wanted_node(nodes, address));
    }
    if (!list.ask()) {
        return false;
    }
    const auto   is_present = [](int node) { return node >= 0; };
    const size_t n_present  = size_t(std::count_if(list.status.begin(), list.status.end(), is_present));
    size_t       n_right    = 0; // at most a node's share counts
    for (const int32_t node : nodes) {
        const size_t n_there = size_t(std::count(list.status.begin(), list.status.end(), node));
        n_right += std::min(n_there, (n_present + nodes.size() - 1) / nodes.size());
    }
    return n_present - n_right > n_present / 20;
}

uint64_t move_range(const byte_range & range, const node_list & nodes, uint64_t page_bytes, page_list & list) {
    uint64_t  n_moved = 0;
    page_list far;
    for (uint64_t begin = range.first; begin < range.last; begin += CHUNK_PAGES * page_bytes) {
        list.clear();
        for (uint64_t page = begin; page < std::min(range.last, begin + CHUNK_PAGES * page_bytes); page += page_bytes) {
            list.add(page, wanted_node(nodes, page));
        }
        if (!list.ask()) {
            return n_moved;
        }
        far.clear();
        for (size_t i = 0; i < list.pages.size(); i++) {
            if (list.status[i] >= 0 && list.status[i] != list.nodes[i]) {
                far.add(reinterpret_cast<uint64_t>(list.pages[i]), list.nodes[i]);
            }
        }
        if (far.pages.empty()) {
            continue;
        }
        if (!far.move()) {
            return n_moved;
        }
        for (size_t i = 0; i < far.pages.size(); i++) {
            n_moved += far.status[i] == far.nodes[i];
        }
    }
    return n_moved;
}

} // namespace

struct memory_placement::policy {
    int                                                         mode = 0;
    std::array<unsigned long, PI_MAX_NODES / BITS_PER_WORD + 1> nodes{};

    bool read() { return syscall(SYS_get_mempolicy, &mode, nodes.data(), MASK_BITS, nullptr, 0) == 0; }
    bool set() const { return syscall(SYS_set_mempolicy, mode, nodes.data(), MASK_BITS) == 0; }
};

memory_placement::memory_placement(const node_list & nodes) :
    nodes_(nodes),
    mapped_before_(begins_of(nodes.empty() ? std::vector<byte_range>() : mapped_files())) {
    if (nodes.size() < 2) {
        return;
    }
    policy wanted;
    wanted.mode = MPOL_INTERLEAVE;
    for (const int32_t node : nodes) {
        wanted.nodes[size_t(node) / BITS_PER_WORD] |= 1UL << (size_t(node) % BITS_PER_WORD);
    }
    auto before = std::make_unique<policy>();
    if (before->read() && wanted.set()) {
        before_ = std::move(before);
    }
}

memory_placement::~memory_placement() {
    if (before_) {
        before_->set();
    }
}

uint64_t memory_placement::move_files() const {
    if (nodes_.empty()) {
        return 0;
    }
    const uint64_t page_bytes = uint64_t(sysconf(_SC_PAGESIZE));
    uint64_t       n_moved    = 0;
    page_list      list;
    for (const byte_range & range : mapped_files()) {
        if (!mapped_before_.count(range.first) && is_far(range, nodes_, page_bytes, list)) {
            n_moved += move_range(range, nodes_, page_bytes, list);
        }
    }
    return n_moved * page_bytes;
}

#else

struct memory_placement::policy {};

memory_placement::memory_placement(const node_list &) {}

memory_placement::~memory_placement() = default;

uint64_t memory_placement::move_files() const {
    return 0;
}

#endif
