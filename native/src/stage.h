#pragma once

#include "emulation.h"
#include "threads.h"
#include "wire.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

struct llama_model;
struct llama_context;

struct stage_params {
    std::string model_path;
    int32_t     layer_first;
    int32_t     layer_last;
    int32_t     index; // of the stage in the pipeline
    bool        is_first;
    bool        is_last;
    int32_t     n_ctx;
    int32_t     n_batch;
    int32_t     n_threads;
    bool        has_own_cores;
    bool        takes_turns; // with a draft model of this process

    pi_sample_params     sample;
    const pi_emulation * emulation; // NULL: none; read when the stage is made
};

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

// A stage: a range of the target's layers and their KV cache. Used by one thread once it is made, but for `cancels`.
class stage {
  public:
    // Loads the layers. Throws std::runtime_error.
    explicit stage(const stage_params & params);
    ~stage();

    // Computes a token and forgets it, so that the weights are in memory. Throws std::runtime_error.
    void warm_up();

    // Apply the run's KV operations and compute it: tokens (first stage) or hidden states become hidden states, or rows
    // on the last stage. A cancelled run keeps its KV operations only. Throws std::runtime_error when the run cannot be
    // computed for another reason.
    void step(run_state & run);

    // Positions held in the KV cache, from the first to the last one of each sequence, summed over the sequences.
    int32_t       kv_positions() const;
    int32_t       n_embd() const { return n_embd_; }
    const float * last_logits() const { return last_logits_; }

    cancel_board cancels;

  private:
    void apply(const pi_kv_op & op);
    bool take_time(run_state & run); // compute, and wait if emulated; false: aborted
    bool compute(run_state & run);   // false: aborted
    void sample(run_state & run);
    void remove_cells(const run_state & run);

    struct model_deleter {
        void operator()(llama_model * model) const;
    };
    struct context_deleter {
        void operator()(llama_context * context) const;
    };
    struct batch_arrays;

    stage_params                                    params_;
    std::optional<emulated_clock>                   clock_; // of an emulated machine
    compute_threads                                 threads_;
    std::unique_ptr<llama_model, model_deleter>     model_;
    std::unique_ptr<llama_context, context_deleter> context_;
    std::unique_ptr<batch_arrays>                   batch_;
    const float *                                   last_logits_ = nullptr; // llama.cpp's, until the next run
    int32_t                                         n_embd_      = 0;
    int32_t                                         n_vocab_     = 0;
};

// The host's monotonic clock.
uint64_t now_us();
