#pragma once

#include "assertions.h"
#include "channel.h"
#include "pipeinfer.h"
#include "threads.h"

#include <atomic>
#include <exception>
#include <memory>
#include <string>

struct llama_model;
struct llama_context;

// A whole small model in the head's process: what follows a text that it is fed token by token. Used by one thread at a
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

    // Forgets what was fed after the first n tokens.
    void keep(int32_t n_tokens);

    // Feeds tokens after those that were fed before. Throws std::runtime_error.
    void feed(const int32_t * tokens, int32_t n_tokens);

    int32_t top(int32_t n_vocab, const pi_sample_params & params, int32_t n_max, int32_t * tokens,
                float * probabilities) const;

    std::string last_error; // what pi_draft_error hands out

  private:
    struct model_deleter {
        void operator()(llama_model * model) const;
    };
    struct context_deleter {
        void operator()(llama_context * context) const;
    };

    compute_threads                                 threads_;
    std::unique_ptr<llama_model, model_deleter>     model_;
    std::unique_ptr<llama_context, context_deleter> context_;
    int32_t                                         n_fed_ = 0; // positions in the KV cache

    channel<std::exception_ptr> warm_; // what came of computing the first token; null: all is well
    std::atomic<bool>           is_stuck_{ false };
    assertion_listener          listener_; // last: it is the first to go
};
