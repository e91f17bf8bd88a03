#include "log.h"

#include "llama.h"

#include <atomic>
#include <cstdio>
#include <mutex>

static std::mutex        g_mutex;
static std::string       g_first_error;
static std::atomic<bool> g_verbose{ false };

static void on_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::lock_guard<std::mutex> lock(g_mutex);
        if (g_first_error.empty()) {
            g_first_error = text;
            while (!g_first_error.empty() && g_first_error.back() == '\n') {
                g_first_error.pop_back();
            }
        }
    }
    if (g_verbose && (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN)) {
        fputs(text, stderr);
    }
}

void log_capture(bool verbose) {
    g_verbose = verbose;
    llama_log_set(on_log, nullptr);
}

void log_reset_errors() {
    std::lock_guard<std::mutex> lock(g_mutex);
    g_first_error.clear();
}

std::string log_first_error() {
    std::lock_guard<std::mutex> lock(g_mutex);
    return g_first_error;
}
