#pragma once

#include <cstddef>
#include <functional>

// Calls it on a thread with a stack of n_bytes, and waits. Memory is taken only as the stack grows. Throws what the
// call throws, or std::runtime_error if there can be no such stack.
void on_large_stack(size_t n_bytes, const std::function<void()> & call);
