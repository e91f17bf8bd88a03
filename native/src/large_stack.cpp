#include "large_stack.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <exception>
#include <stdexcept>
#include <string>

// address space that counts as memory only where it is touched, which other systems than Linux do unasked
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_STACK
#define MAP_STACK 0
#endif

namespace {

// Address space with a page before it that nobody may touch.
class stack_memory {
  public:
    explicit stack_memory(size_t n_bytes) : n_guard_(size_t(sysconf(_SC_PAGESIZE))) {
        n_bytes_ = (n_bytes + n_guard_ - 1) / n_guard_ * n_guard_;
        begin_   = mmap(nullptr, n_guard_ + n_bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (begin_ == MAP_FAILED) {
            throw std::runtime_error("no address space for a stack of " + std::to_string(n_bytes_ >> 20) +
                                     " MB (ulimit -v)");
        }
        mprotect(begin_, n_guard_, PROT_NONE);
    }

    ~stack_memory() { munmap(begin_, n_guard_ + n_bytes_); }

    stack_memory(const stack_memory &)             = delete;
    stack_memory & operator=(const stack_memory &) = delete;

    void * stack() const { return static_cast<char *>(begin_) + n_guard_; }
    size_t n_bytes() const { return n_bytes_; }

  private:
    const size_t n_guard_;
    size_t       n_bytes_ = 0;
    void *       begin_   = nullptr;
};

struct errand {
    const std::function<void()> & call;
    std::exception_ptr            error;
};

void * run(void * data) {
    errand & self = *static_cast<errand *>(data);
    try {
        self.call();
    } catch (...) {
        self.error = std::current_exception();
    }
    return nullptr;
}

} // namespace

void on_large_stack(size_t n_bytes, const std::function<void()> & call) {
    const stack_memory memory(n_bytes);
    errand             self{ call, nullptr };

    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, memory.stack(), memory.n_bytes());
    pthread_t  thread;
    const bool is_started = pthread_create(&thread, &attributes, run, &self) == 0;
    pthread_attr_destroy(&attributes);
    if (!is_started) {
        throw std::runtime_error("cannot start a thread");
    }
    pthread_join(thread, nullptr);
    if (self.error) {
        std::rethrow_exception(self.error);
    }
}
