#include "assertions.h"

#include "ggml.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <stdexcept>
#include <vector>

static thread_local int t_n_guards = 0;

static std::mutex                              g_mutex;
static std::vector<const assertion_listener *> g_listeners;

// "/a/b/llama-vocab.cpp:2565: GGML_ASSERT(...) failed", without the folder.
static std::string in_words(const char * message) {
    const std::string text(message);
    const size_t      slash = text.rfind('/', text.find(": "));
    return "an assertion of llama.cpp failed: " + (slash == std::string::npos ? text : text.substr(slash + 1));
}

static void on_abort(const char * message) {
    const std::string words = in_words(message);
    if (t_n_guards > 0) {
        throw std::runtime_error(words);
    }
    std::unique_lock<std::mutex> lock(g_mutex);
    if (g_listeners.empty()) {
        fprintf(stderr, "%s\n", words.c_str());
        return; // ggml_abort ends the process
    }
    for (const assertion_listener * listener : g_listeners) {
        listener->tell(words);
    }
    lock.unlock();
    while (true) {
        pause();
    }
}

void assertions_catch() {
    ggml_set_abort_callback(on_abort);
}

assertion_guard::assertion_guard() {
    t_n_guards++;
}

assertion_guard::~assertion_guard() {
    t_n_guards--;
}

assertion_listener::assertion_listener(std::function<void(const std::string &)> tell_) : tell(std::move(tell_)) {
    std::lock_guard<std::mutex> lock(g_mutex);
    g_listeners.push_back(this);
}

assertion_listener::~assertion_listener() {
    std::lock_guard<std::mutex> lock(g_mutex);
    g_listeners.erase(std::remove(g_listeners.begin(), g_listeners.end(), this), g_listeners.end());
}
