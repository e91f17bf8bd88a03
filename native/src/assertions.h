#pragma once

#include <functional>
#include <string>

// llama.cpp states by assertions what it expects of a model file, and an assertion ends the process. Here it becomes an
// error instead; on a thread without a guard, and without listeners, it still ends the process: on a worker of
// pi_quantize.

// From now on. Once per process, before anything else.
void assertions_catch();

// While one lives, a failed assertion on its thread throws std::runtime_error. Not for computing a graph: the other
// compute threads would wait for this one in vain.
class assertion_guard {
  public:
    assertion_guard();
    ~assertion_guard();

    assertion_guard(const assertion_guard &)             = delete;
    assertion_guard & operator=(const assertion_guard &) = delete;
};

// While there are any, a failed assertion on a thread without a guard is handed to each one's `tell`, on that thread,
// which then sleeps for ever.
class assertion_listener {
  public:
    explicit assertion_listener(std::function<void(const std::string &)> tell);
    ~assertion_listener();

    assertion_listener(const assertion_listener &)             = delete;
    assertion_listener & operator=(const assertion_listener &) = delete;

    const std::function<void(const std::string &)> tell;
};
