#pragma once

#include "cancel_board.h"
#include "pipeinfer.h"
#include "wire.h"

#include <cstddef>
#include <cstdint>
#include <vector>

// A stage of another machine on this one: it really computes, then waits until that machine would be through.
//
// Its clock knows when things would have happened there, not when a thread of ours noticed: a run begins when its
// message would have come, ends so much later, and what is sent on bears the time of that end. So this machine's own
// delays, such as pauses between polls, do not add up over the stages. Where the real compute (with the delays before it)
// is not over in time, the clock continues from the real time, and reports by how much it was late.

// The link into this rank. All ranks are on one host, and share its clock. Used by the comm thread.
class emulated_link {
  public:
    explicit emulated_link(const pi_emulation & params);

    // When the run or result has come; messages follow one another. Sets its in_bytes to what the link has carried: the
    // hidden states are the emulated model's.
    uint64_t arrival_us(run_state & run);
    // When a cancel has come: it takes the link's latency.
    uint64_t cancel_arrival_us(uint64_t sent_us) const { return sent_us + latency_us_; }

  private:
    uint64_t latency_us_;
    double   bytes_per_us_;
    size_t   hidden_bytes_; // of one token
    double   free_us_ = 0;  // when the last message had left
};

// The clock of a stage. Used by the compute thread.
class emulated_clock {
  public:
    explicit emulated_clock(const pi_emulation & params);

    // A run's turn: it has come, and the one before is through. Returns when.
    uint64_t begin(uint64_t arrived_us);
    // After the real compute: waits until the time for n_tokens is over. False: cancelled before that.
    bool     wait(size_t n_tokens, cancel_board & cancels);
    // The run was given up when its cancel came.
    void     abort(uint64_t cancelled_us);

    // When the run ended, and by how much that was too late.
    uint64_t end_us() const { return end_us_; }
    uint32_t late_us() const { return late_us_; }

  private:
    std::vector<uint32_t> durations_us_; // of runs with 1, 2, ... tokens
    uint64_t              begin_us_ = 0;
    uint64_t              end_us_   = 0;
    uint32_t              late_us_  = 0;
};

// How long this rank may pause between polls: on the head, what is noticed late counts as the cluster's delay; a stage makes
// up for it, as long as its real compute still fits into its time.
uint64_t emulated_pause_us(const pi_emulation & params);
