#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

// The cancels that have arrived, and the run that is being computed. Shared by the thread that computes and the one
// that hears of cancels; llama.cpp's abort callback reads one atomic flag.
class cancel_board {
  public:
    // Any thread: give up the runs [first, last], the current one too if it is among them. With due_us (host's monotonic
    // clock) not before that.
    void cancel(uint64_t first, uint64_t last, uint64_t due_us = 0);

    // Compute thread: the run's turn has come, at start_us. False if it has been cancelled by then.
    bool begin(uint64_t run_id, uint64_t start_us);
    // Compute thread: false if the current run is cancelled before end_us; else returns then.
    bool wait_until(uint64_t end_us);
    // Compute thread: the run is done. Cancels that concern only it and earlier runs are forgotten.
    void end();

    // Asked once per graph node.
    bool     should_abort();
    // How often it was asked: grows while a run is being computed.
    uint64_t n_checks() const { return n_checks_.load(std::memory_order_relaxed); }
    // When the current run's cancel came.
    uint64_t abort_us() const { return abort_us_.load(std::memory_order_relaxed); }

  private:
    static constexpr uint64_t NEVER = std::numeric_limits<uint64_t>::max();

    struct range {
        uint64_t first;
        uint64_t last;
        uint64_t due_us;

        bool has(uint64_t run_id) const { return first <= run_id && run_id <= last; }
    };

    std::mutex              mutex_;
    std::condition_variable changed_;
    std::vector<range>      ranges_;
    uint64_t                current_ = 0;
    std::atomic<uint64_t>   abort_us_{ NEVER }; // of the current run
    std::atomic<uint64_t>   n_checks_{ 0 };
};
