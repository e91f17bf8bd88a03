#include "cancel_board.h"

#include "clock.h"

#include <algorithm>
#include <chrono>

void cancel_board::cancel(uint64_t first, uint64_t last, uint64_t due_us) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (last < current_) {
        return; // too late
    }
    ranges_.push_back({ first, last, due_us });
    if (ranges_.back().has(current_)) {
        abort_us_ = std::min(abort_us(), due_us);
        changed_.notify_one();
    }
}

bool cancel_board::begin(uint64_t run_id, uint64_t start_us) {
    std::lock_guard<std::mutex> lock(mutex_);
    current_          = run_id;
    uint64_t abort_us = NEVER;
    for (const range & range : ranges_) {
        if (range.has(run_id)) {
            abort_us = std::min(abort_us, range.due_us);
        }
    }
    abort_us_ = abort_us;
    return abort_us > start_us;
}

bool cancel_board::wait_until(uint64_t end_us) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (now_us() < std::min(end_us, abort_us())) {
        const std::chrono::microseconds until(std::min(end_us, abort_us()));
        changed_.wait_until(lock, std::chrono::steady_clock::time_point(until));
    }
    return abort_us() >= end_us;
}

void cancel_board::end() {
    std::lock_guard<std::mutex> lock(mutex_);
    abort_us_ = NEVER;
    ranges_.erase(
        std::remove_if(ranges_.begin(), ranges_.end(), [&](const range & range) { return range.last <= current_; }),
        ranges_.end());
}

bool cancel_board::should_abort() {
    n_checks_.fetch_add(1, std::memory_order_relaxed);
    const uint64_t at_us = abort_us();
    return at_us != NEVER && at_us <= now_us();
}
