#pragma once

#include "cancel_board.h"
#include "decoder.h"
#include "emulation.h"
#include "wire.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct llama_model;

struct stage_params {
    std::string model_path;
    int32_t     layer_first;
    int32_t     layer_last;
    int32_t     index; // of the stage in the pipeline
    bool        is_first;
    bool        is_last;
    int32_t     n_ctx;
    int32_t     n_cells;
    int32_t     n_batch;
    int32_t     type_k;
    int32_t     type_v;
    int32_t     n_threads;
    bool        has_own_cores;
    bool        reads_weights; // instead of mapping the file
    bool        locks_memory; // what is there once the stage has first computed, not later slots' drafts
    bool        takes_turns; // with a draft model of this process
    cpu_list    cpus; // of the compute threads
    pi_states   states; // of recurrent layers

    pi_sample_params     sample;
    const pi_emulation * emulation; // NULL: none; read when the stage is made, as are
    const pi_adapter *   adapters; // [n_adapters]
    int32_t              n_adapters;
    pi_rope              rope;
    pi_devices           devices; // its names are read when the stage is made
    int32_t              exact_shape;
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
    int32_t         kv_positions() const;
    pi_device_bytes device_bytes() const { return decoder_->device_bytes(); }

    int32_t       n_embd() const { return n_embd_; }
    int32_t       n_vocab() const { return n_vocab_; }
    const float * last_logits() const { return last_logits_; }

    cancel_board cancels;

  private:
    bool take_time(run_state & run); // compute, and wait if emulated; false: aborted
    bool compute(run_state & run);   // false: aborted
    void sample(run_state & run);

    struct model_deleter {
        void operator()(llama_model * model) const;
    };

    stage_params                                params_;
    std::optional<emulated_clock>               clock_; // of an emulated machine
    std::unique_ptr<llama_model, model_deleter> model_;
    std::unique_ptr<decoder>                    decoder_;
    const float *                               last_logits_ = nullptr; // llama.cpp's, until the next run
    int32_t                                     n_embd_      = 0;
    int32_t                                     n_vocab_     = 0;
};
