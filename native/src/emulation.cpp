#include "emulation.h"

#include "cancel_board.h"
#include "clock.h"

#include <algorithm>

static constexpr uint64_t MIN_PAUSE_US = 100;
static constexpr uint64_t MAX_PAUSE_US = 2000;

emulated_link::emulated_link(const pi_emulation & params) :
    latency_us_(params.latency_us),
    bytes_per_us_(params.bytes_per_us),
    hidden_bytes_(params.hidden_bytes) {}

uint64_t emulated_link::arrival_us(run_state & run) {
    if (!run.hidden.empty()) {
        run.in_bytes -= uint32_t(run.hidden.size() * sizeof(float));
        run.in_bytes += uint32_t(run.tokens.size() * hidden_bytes_);
    }
    free_us_ = std::max(free_us_, double(run.sent_us)) + double(run.in_bytes) / bytes_per_us_;
    return uint64_t(free_us_) + latency_us_;
}

emulated_clock::emulated_clock(const pi_emulation & params) :
    durations_us_(params.stage_us, params.stage_us + params.n_stage_us) {}

uint64_t emulated_clock::begin(uint64_t arrived_us) {
    begin_us_ = std::max(arrived_us, end_us_);
    end_us_   = begin_us_;
    late_us_  = 0;
    return begin_us_;
}

bool emulated_clock::wait(size_t n_tokens, cancel_board & cancels) {
    const uint64_t due_us      = begin_us_ + durations_us_.at(n_tokens - 1);
    const uint64_t computed_us = now_us();
    if (!cancels.wait_until(due_us)) {
        return false;
    }
    end_us_  = std::max(due_us, computed_us);
    late_us_ = uint32_t(end_us_ - due_us);
    return true;
}

void emulated_clock::abort(uint64_t cancelled_us) {
    end_us_ = std::max(begin_us_, cancelled_us);
}

uint64_t emulated_pause_us(const pi_emulation & params) {
    return params.n_stage_us == 0 ? MIN_PAUSE_US :
                                    std::clamp(uint64_t(params.stage_us[0]) / 4, MIN_PAUSE_US, MAX_PAUSE_US);
}
