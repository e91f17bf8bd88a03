#include "log.h"

#include "llama.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <vector>

static constexpr size_t MAX_WARNINGS = 100; // that are kept: a file may bring one for each token

static std::mutex               g_mutex;
static std::string              g_first_error;
static std::vector<std::string> g_warnings;
static std::string              g_file_name;
static int                      g_file = -1;
static std::atomic<bool>        g_verbose{ false };

// What a file says of itself goes into these lines: no control character of it, C1 in UTF-8 included, may reach a terminal.
static std::string printable(const char * text) {
    std::string line(text);
    while (!line.empty() && line.back() == '\n') {
        line.pop_back();
    }
    for (size_t i = 0; i < line.size(); i++) {
        const auto c    = static_cast<unsigned char>(line[i]);
        const auto next = static_cast<unsigned char>(i + 1 < line.size() ? line[i + 1] : 0);
        if (c < 0x20 || c == 0x7f) {
            line[i] = '?';
        } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) {
            line[i] = line[i + 1] = '?';
        }
    }
    return line;
}

static void append_to_file(ggml_log_level level, const std::string & line) {
    using namespace std::chrono;
    const auto        now  = system_clock::now();
    const std::time_t time = system_clock::to_time_t(now);
    const auto        ms   = duration_cast<milliseconds>(now.time_since_epoch()).count() % 1000;

    std::tm local{};
    localtime_r(&time, &local);
    char stamp[32];
    strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &local);
    char millis[16];
    snprintf(millis, sizeof(millis), ",%03d ", int(ms));
    const std::string whole = stamp + (millis + g_file_name) + (level == GGML_LOG_LEVEL_ERROR ? " ERROR" : " WARNING") +
                              " llama.cpp: " + line + "\n";
    // one write: lines of several ranks in one file stay whole; a full disk is not our business here
    if (write(g_file, whole.data(), whole.size()) < 0) {
        g_file = -1;
    }
}

static void on_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    if (level != GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_WARN) {
        return;
    }
    const std::string line = printable(text);

    std::lock_guard<std::mutex> lock(g_mutex);
    if (level == GGML_LOG_LEVEL_ERROR && g_first_error.empty()) {
        g_first_error = line;
    }
    if (level == GGML_LOG_LEVEL_WARN && g_warnings.size() < MAX_WARNINGS &&
        std::find(g_warnings.begin(), g_warnings.end(), line) == g_warnings.end()) {
        g_warnings.push_back(line);
    }
    if (g_file >= 0) {
        append_to_file(level, line);
    }
    if (g_verbose) {
        fprintf(stderr, "%s\n", line.c_str());
    }
}

void log_capture(bool verbose) {
    g_verbose = verbose;
    llama_log_set(on_log, nullptr);
}

void log_to_file(int fd, const char * name) {
    std::lock_guard<std::mutex> lock(g_mutex);
    g_file      = fd;
    g_file_name = name;
}

void log_reset_errors() {
    std::lock_guard<std::mutex> lock(g_mutex);
    g_first_error.clear();
}

std::string log_first_error() {
    std::lock_guard<std::mutex> lock(g_mutex);
    return g_first_error;
}

std::string log_take_warnings() {
    std::lock_guard<std::mutex> lock(g_mutex);
    std::string                 text;
    for (const std::string & warning : g_warnings) {
        text += (text.empty() ? "" : "\n") + warning;
    }
    g_warnings.clear();
    return text;
}
