#pragma once

#include <cstdint>
#include <memory>

struct llama_context;
struct ggml_threadpool;

// The compute threads of one llama.cpp context: a ggml threadpool, whose first thread is the one that calls
// llama_decode. It lives as long as the context, so that no team of threads exists that does not compute.
//
// Two pools of one process (a stage and a draft model) that want the same cores compute in turn: a pool whose turn is
// over sleeps, instead of spinning on the cores of the other.
class compute_threads {
  public:
    struct params {
        const char * name; // of its threads, at most 15 characters
        int32_t      n_threads;
        bool         has_own_cores; // idle threads may spin for a moment; else they sleep at once
        bool         takes_turns;
    };

    // Starts the threads, asleep. Throws std::runtime_error.
    explicit compute_threads(const params & params);
    ~compute_threads();

    // From now on the context computes with these threads.
    void attach(llama_context * context);

    // Held while the context computes. Those who wait get their turn in the order in which they came.
    class turn {
      public:
        explicit turn(compute_threads & threads);
        ~turn();

        turn(const turn &)             = delete;
        turn & operator=(const turn &) = delete;

      private:
        const bool takes_turns_;
    };

  private:
    struct pool_deleter {
        void operator()(ggml_threadpool * pool) const;
    };

    const bool                                     takes_turns_;
    std::unique_ptr<ggml_threadpool, pool_deleter> pool_;
};

// The calling thread's name, at most 15 characters: debuggers and tests see it.
void name_thread(const char * name);
