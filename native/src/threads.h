#pragma once

#include <cstdint>
#include <memory>
#include <vector>

struct llama_context;
struct ggml_threadpool;

// CPUs by their numbers, below PI_MAX_CPUS; none: those that the process may use.
using cpu_list = std::vector<int32_t>;

// The CPUs of parameters. Throws std::runtime_error if a number is out of range.
cpu_list make_cpu_list(const int32_t * cpus, int32_t n_cpus);

// While it lives, the calling thread runs on these CPUs only. Where that cannot be, it runs as before.
class cpu_binding {
  public:
    explicit cpu_binding(const cpu_list & cpus);
    ~cpu_binding();

    cpu_binding(const cpu_binding &)             = delete;
    cpu_binding & operator=(const cpu_binding &) = delete;

  private:
    struct mask;
    std::unique_ptr<mask> before_; // none: nothing was changed
};

// The compute threads of one llama.cpp context: a ggml threadpool, whose first thread is the one that calls
// llama_decode. It lives as long as the context, so that no team of threads exists that does not compute. Any of them may run
// on any of its CPUs; ggml binds the thread that computes first, too.
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
        cpu_list     cpus;
    };

    // Starts the threads, asleep. Throws std::runtime_error.
    explicit compute_threads(const params & params);
    ~compute_threads();

    const cpu_list & cpus() const { return cpus_; }

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
    const cpu_list                                 cpus_;
    std::unique_ptr<ggml_threadpool, pool_deleter> pool_;
};

// The calling thread's name, at most 15 characters: debuggers and tests see it.
void name_thread(const char * name);
