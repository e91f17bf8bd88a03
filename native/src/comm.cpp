#include "comm.h"

#include "clock.h"
#include "emulation.h"
#include "threads.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>

// While this process does not compute, its comm thread spins for so long, then it pauses between polls. On cores of its
// own it can wait for the other stages of a short pass; where cores are shared, for the next message in a burst.
static constexpr uint64_t SPIN_US        = 1000;
static constexpr uint64_t SHARED_SPIN_US = 50;

// A poll costs a few microseconds of a core. While nothing comes, the pauses grow with the time that nothing has come:
// they add at most this fraction to it.
static constexpr uint64_t IDLE_FRACTION        = 256;
static constexpr uint64_t SHARED_IDLE_FRACTION = 64;
static constexpr uint64_t MIN_PAUSE_US         = 50;
static constexpr uint64_t MAX_PAUSE_US         = 1000;

// A stage that computes needs nothing from its comm thread but cancels, and those within a millisecond.
static constexpr uint64_t COMPUTING_PAUSE_US = 500;

static constexpr uint64_t DRAIN_US  = 1000000;
static constexpr uint64_t RETIRE_US = 100000;

comm::comm(const comm_params & params, std::unique_ptr<mpi_calls> mpi, data_handler on_data, control_handler on_control,
           failure_handler on_failure) :
    params_(params),
    mpi_(std::move(mpi)),
    on_data_(std::move(on_data)),
    on_control_(std::move(on_control)),
    on_failure_(std::move(on_failure)),
    incoming_(params.max_message),
    data_request_(mpi_->null_request()),
    control_request_(mpi_->null_request()) {
    if (params.max_message > size_t(std::numeric_limits<int>::max())) {
        throw std::runtime_error("messages of more than 2 GiB: use a smaller n_batch");
    }
}

void comm::start() {
    thread_ = std::thread([this] { loop(); });
}

comm::~comm() {
    stop();
}

void comm::stop() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_    = true;
        deadline_us_ = now_us() + DRAIN_US;
    }
    wake_.notify_one();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void comm::send_data(int dest, wire_buffer buffer) {
    enqueue({ params_.data, dest, std::move(buffer), mpi_->null_request() });
}

void comm::send_control(int dest, control_message message) {
    message.source = params_.rank;
    wire_buffer buffer(sizeof(message));
    memcpy(buffer.data.get(), &message, sizeof(message));
    enqueue({ params_.control, dest, std::move(buffer), mpi_->null_request() });
}

void comm::enqueue(outgoing message) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        outbox_.push_back(std::move(message));
    }
    wake_.notify_one();
}

void comm::loop() {
    name_thread("pi-comm");
    wait_precisely(); // or a short sleep would take twice as long
    try {
        post_data();
        post_control();
        while (!is_over()) {
            // all four each time: control must not wait behind data
            const bool sent      = start_sends();
            const bool finished  = finish_sends();
            const bool commanded = poll_control();
            const bool received  = poll_data();
            if (sent || finished || commanded || received) {
                active_us_ = now_us();
            } else {
                rest();
            }
        }
    } catch (const std::exception & error) {
        on_failure_(error.what());
    }
    retire();
}

bool comm::is_over() {
    std::lock_guard<std::mutex> lock(mutex_);
    return stopping_ && ((outbox_.empty() && sends_.empty()) || now_us() > deadline_us_);
}

bool comm::start_sends() {
    std::deque<outgoing> ready;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ready.swap(outbox_);
    }
    for (outgoing & message : ready) {
        sends_.push_back(std::move(message));
        outgoing & send = sends_.back();
        send.request    = mpi_->send(send.buffer.data.get(), send.buffer.size, send.dest, send.comm);
    }
    return !ready.empty();
}

bool comm::finish_sends() {
    bool any = false;
    for (auto send = sends_.begin(); send != sends_.end();) {
        const bool done = mpi_->test(send->request);

        any  = any || done;
        send = done ? sends_.erase(send) : std::next(send);
    }
    return any;
}

void comm::post_data() {
    data_request_ = mpi_->receive(incoming_.data.get(), incoming_.size, params_.data_source, params_.data);
}

void comm::post_control() {
    control_request_ =
        mpi_->receive(incoming_control_.get(), sizeof(*incoming_control_), mpi_->any_source(), params_.control);
}

bool comm::poll_data() {
    size_t size = 0;
    if (!mpi_->test(data_request_, &size)) {
        return false;
    }
    on_data_(incoming_.data.get(), size);
    post_data();
    return true;
}

bool comm::poll_control() {
    if (!mpi_->test(control_request_)) {
        return false;
    }
    const control_message message = *incoming_control_;
    post_control();
    on_control_(message);
    return true;
}

void comm::rest() {
    const bool     is_computing = computing_.load(std::memory_order_relaxed) && sends_.empty();
    const uint64_t idle_us      = now_us() - active_us_;
    if (!is_computing && params_.pause_us == 0 && idle_us < (params_.has_own_cores ? SPIN_US : SHARED_SPIN_US)) {
        std::this_thread::yield();
        return;
    }
    const uint64_t fraction = params_.has_own_cores ? IDLE_FRACTION : SHARED_IDLE_FRACTION;

    uint64_t pause_us = is_computing ? COMPUTING_PAUSE_US : std::clamp(idle_us / fraction, MIN_PAUSE_US, MAX_PAUSE_US);
    if (params_.pause_us > 0 && sends_.empty()) {
        pause_us = params_.pause_us;
    }

    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait_for(lock, std::chrono::microseconds(pause_us), [&] { return stopping_ || !outbox_.empty(); });
}

// Ends the requests that are left. MPI may keep using the memory of those that do not end in time (their peer hangs,
// or is gone): that memory is never freed.
void comm::retire() {
    struct leftovers {
        std::list<outgoing>              sends;
        wire_buffer                      incoming;
        std::unique_ptr<control_message> control;
    };

    const auto is_done = [this](mpi_request & request, bool cancels = false) {
        try {
            if (cancels && !mpi_->is_null(request)) {
                mpi_->cancel(request);
            }
            return mpi_->is_null(request) || mpi_->test(request);
        } catch (const std::exception &) {
            return false;
        }
    };
    is_done(data_request_, true);
    is_done(control_request_, true);
    const uint64_t deadline_us = now_us() + RETIRE_US;
    bool           all_done    = false;
    while (!all_done && now_us() < deadline_us) {
        sends_.remove_if([&](outgoing & send) { return is_done(send.request); });
        all_done = is_done(data_request_) & is_done(control_request_) & sends_.empty();
    }
    if (!all_done) {
        new leftovers{ std::move(sends_), std::move(incoming_), std::move(incoming_control_) };
    }
}
