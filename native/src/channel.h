#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

// A queue between two threads. An item may have a time before which it is not handed out, nor what is behind it.
template <typename T> class channel {
  public:
    // due_us: by the host's monotonic clock; 0 is at once.
    void push(T item, uint64_t due_us = 0) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            items_.push_back({ std::move(item), time_point(std::chrono::microseconds(due_us)) });
        }
        changed_.notify_one();
    }

    // Wakes who waits; what is still in the queue is dropped.
    void close() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            closed_ = true;
            items_.clear();
        }
        changed_.notify_all();
    }

    // Has a pop_for that is under way, or else the next one, return nothing at once if there is no item to hand out.
    void nudge() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            nudged_ = true;
        }
        changed_.notify_one();
    }

    // Blocks until there is an item; nothing once the channel is closed.
    std::optional<T> pop() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!closed_ && !is_due()) {
            items_.empty() ? changed_.wait(lock) : (void) changed_.wait_until(lock, items_.front().due);
        }
        return take();
    }

    // Nothing also when the time is over.
    std::optional<T> pop_for(std::chrono::milliseconds timeout) {
        const time_point             deadline = clock::now() + timeout;
        std::unique_lock<std::mutex> lock(mutex_);
        while (!closed_ && !nudged_ && !is_due() && clock::now() < deadline) {
            changed_.wait_until(lock, items_.empty() ? deadline : std::min(deadline, items_.front().due));
        }
        if (!is_due()) {
            nudged_ = false;
            return std::nullopt;
        }
        return take();
    }

  private:
    using clock      = std::chrono::steady_clock;
    using time_point = clock::time_point;

    struct entry {
        T          item;
        time_point due;
    };

    bool is_due() const { return !items_.empty() && items_.front().due <= clock::now(); }

    std::optional<T> take() {
        if (items_.empty()) {
            return std::nullopt;
        }
        std::optional<T> item(std::move(items_.front().item));
        items_.pop_front();
        return item;
    }

    std::mutex              mutex_;
    std::condition_variable changed_;
    std::deque<entry>       items_;
    bool                    closed_ = false;
    bool                    nudged_ = false;
};
