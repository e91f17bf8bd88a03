#pragma once

#include "assertions.h"
#include "channel.h"
#include "decoder.h"
#include "pipeinfer.h"

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <vector>

struct llama_model;

// A whole small model in the head's process: a pipeline of one stage, whose rows are candidates. Used by one thread at a
// time.
struct pi_draft {
  public:
    // Loads the model. Throws std::runtime_error.
    explicit pi_draft(const pi_draft_params & params);
    ~pi_draft();

    // Computes a token and forgets it, so that what the file has wrong is found now. Throws std::runtime_error.
    void start();
    // Whether a thread will never return from computing: then this object must live on.
    bool is_stuck() const { return is_stuck_; }

    void vocab(int32_t & n_tokens, int32_t & eos) const;

    // See pi_draft_expand. Throws std::runtime_error.
    void expand(const pi_run & run, int32_t n_vocab, const pi_sample_params & params, int32_t n_max, int32_t * n,
                int32_t * tokens, float * probabilities);

    int32_t n_batch() const { return n_batch_; }

    std::string last_error; // what pi_draft_error hands out

  private:
    struct model_deleter {
        void operator()(llama_model * model) const;
    };

    const int32_t                               n_batch_;
    const cpu_list                              cpus_; // of the compute threads
    std::unique_ptr<llama_model, model_deleter> model_;
    std::unique_ptr<decoder>                    decoder_;
    std::vector<pi_token>                       tokens_; // of the run at work
    std::vector<int32_t>                        seq_ids_;

    channel<std::exception_ptr> warm_; // what came of computing the first token; null: all is well
    std::atomic<bool>           is_stuck_{ false };
    assertion_listener          listener_; // last: it is the first to go
};
