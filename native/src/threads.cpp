#include "threads.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "llama.h"
#include "pipeinfer.h"

#include <pthread.h>
#include <sched.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

static constexpr size_t NAME_BYTES = 16;

// Polling levels of ggml: idle threads spin for some milliseconds, or not at all.
static constexpr uint32_t POLL_OWN_CORES    = 1;
static constexpr uint32_t POLL_SHARED_CORES = 0;

// The functions of the CPU backend that has been loaded, whichever variant that is.
template <typename F> static F * backend_function(const char * name) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    void * function = device ? ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), name) : nullptr;
    if (!function) {
        throw std::runtime_error(std::string("the CPU backend has no ") + name);
    }
    return reinterpret_cast<F *>(function);
}

cpu_list make_cpu_list(const int32_t * cpus, int32_t n_cpus) {
    const cpu_list list(cpus, cpus + n_cpus);
    for (const int32_t cpu : list) {
        if (cpu < 0 || cpu >= PI_MAX_CPUS) {
            throw std::runtime_error("CPUs to be bound to must be from 0 to " + std::to_string(PI_MAX_CPUS - 1));
        }
    }
    return list;
}

#ifdef __linux__

struct cpu_binding::mask {
    cpu_set_t cpus;
};

cpu_binding::cpu_binding(const cpu_list & cpus) {
    if (cpus.empty()) {
        return;
    }
    cpu_set_t wanted;
    CPU_ZERO(&wanted);
    for (const int32_t cpu : cpus) {
        CPU_SET(cpu, &wanted);
    }
    // reading fails where the kernel knows more CPUs than fit
    auto before = std::make_unique<mask>();
    if (pthread_getaffinity_np(pthread_self(), sizeof(before->cpus), &before->cpus) == 0 &&
        pthread_setaffinity_np(pthread_self(), sizeof(wanted), &wanted) == 0) {
        before_ = std::move(before);
    }
}

cpu_binding::~cpu_binding() {
    if (before_) {
        pthread_setaffinity_np(pthread_self(), sizeof(before_->cpus), &before_->cpus);
    }
}

#else

// threads go where the kernel puts them
struct cpu_binding::mask {};
cpu_binding::cpu_binding(const cpu_list &) {}
cpu_binding::~cpu_binding() = default;

#endif

// The cores of this process, which one pool at a time may use.
class core_queue {
  public:
    void enter(ggml_threadpool * pool) {
        std::unique_lock<std::mutex> lock(mutex_);
        const uint64_t               ticket = n_tickets_++;
        changed_.wait(lock, [&] { return ticket == n_served_; });
        if (last_ && last_ != pool) {
            pause()(last_); // llama.cpp wakes the other one when it computes
        }
        last_ = pool;
    }

    void leave() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            n_served_++;
        }
        changed_.notify_all();
    }

    // The pool is about to be freed; it is not its turn.
    void forget(ggml_threadpool * pool) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (last_ == pool) {
            last_ = nullptr;
        }
    }

  private:
    static decltype(ggml_threadpool_pause) * pause() {
        static auto * function = backend_function<decltype(ggml_threadpool_pause)>("ggml_threadpool_pause");
        return function;
    }

    std::mutex              mutex_;
    std::condition_variable changed_;
    uint64_t                n_tickets_ = 0;
    uint64_t                n_served_  = 0;
    ggml_threadpool *       last_      = nullptr; // whose turn it was last; its threads may still spin
};

static core_queue & cores() {
    static core_queue & queue = *new core_queue; // never destroyed: a thread that is left behind may wait in it
    return queue;
}

void compute_threads::pool_deleter::operator()(ggml_threadpool * pool) const {
    cores().forget(pool);
    backend_function<decltype(ggml_threadpool_free)>("ggml_threadpool_free")(pool);
}

compute_threads::compute_threads(const params & params) : takes_turns_(params.takes_turns), cpus_(params.cpus) {
    ggml_threadpool_params pool_params = ggml_threadpool_params_default(params.n_threads);

    pool_params.poll   = params.has_own_cores ? POLL_OWN_CORES : POLL_SHARED_CORES;
    pool_params.paused = true; // the first decode wakes them
    for (const int32_t cpu : cpus_) {
        pool_params.cpumask[cpu] = true;
    }

    // new threads take the name of the one that makes them
    char name[NAME_BYTES] = {};
    pthread_getname_np(pthread_self(), name, sizeof(name));
    name_thread(params.name);
    pool_.reset(backend_function<decltype(ggml_threadpool_new)>("ggml_threadpool_new")(&pool_params));
    name_thread(name);
    if (!pool_) {
        throw std::runtime_error("cannot start " + std::to_string(params.n_threads) + " compute threads");
    }
}

compute_threads::~compute_threads() = default;

void compute_threads::attach(llama_context * context) {
    llama_attach_threadpool(context, pool_.get(), pool_.get());
}

compute_threads::turn::turn(compute_threads & threads) : takes_turns_(threads.takes_turns_) {
    if (takes_turns_) {
        cores().enter(threads.pool_.get());
    }
}

compute_threads::turn::~turn() {
    if (takes_turns_) {
        cores().leave();
    }
}

void name_thread(const char * name) {
#ifdef __APPLE__
    pthread_setname_np(name);
#else
    pthread_setname_np(pthread_self(), name);
#endif
}
