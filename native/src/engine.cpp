#include "engine.h"

#include "clock.h"
#include "mask.h"
#include "model_error.h"
#include "run_check.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>

// At the end a compute thread that is stuck for longer than this is left behind.
static constexpr int COMPUTE_END_MS = 3000;

static std::unique_ptr<stage> load_stage(const pi_engine_params & params) {
    if (params.layer_first == params.layer_last) {
        return nullptr;
    }
    stage_params stage_params;
    stage_params.model_path    = params.model_path;
    stage_params.layer_first   = params.layer_first;
    stage_params.layer_last    = params.layer_last;
    stage_params.index         = params.rank - params.stage_rank0;
    stage_params.is_first      = params.rank == params.stage_rank0;
    stage_params.is_last       = params.rank == params.n_ranks - 1;
    stage_params.n_ctx         = params.n_ctx;
    stage_params.n_cells       = params.n_cells;
    stage_params.n_batch       = params.n_batch;
    stage_params.type_k        = params.type_k;
    stage_params.type_v        = params.type_v;
    stage_params.n_threads     = params.n_threads;
    stage_params.has_own_cores = params.has_own_cores != 0;
    stage_params.locks_memory  = params.locks_memory != 0;
    // a mapping, which would be locked as a whole, has other stages' layers, too
    stage_params.reads_weights = params.reads_weights != 0 || params.locks_memory != 0;
    stage_params.takes_turns   = params.shares_cores != 0;
    stage_params.cpus          = make_cpu_list(params.cpus, params.n_cpus);
    stage_params.states        = params.states;
    stage_params.sample        = params.sample;
    stage_params.emulation     = params.emulation;
    stage_params.adapters      = params.adapters;
    stage_params.n_adapters    = params.n_adapters;
    stage_params.rope          = params.rope;
    stage_params.devices       = params.devices;
    stage_params.exact_shape   = params.exact_shape;
    return std::make_unique<stage>(stage_params);
}

static const pi_engine_params & check(const pi_engine_params & params) {
    if (params.n_batch < 1 || params.n_batch > params.n_cells) {
        throw std::runtime_error("n_batch must be from 1 to n_cells");
    }
    if (params.n_ctx < 1) {
        throw std::runtime_error("n_ctx must be at least 1");
    }
    if (params.n_threads < 1 || params.n_threads > PI_MAX_THREADS) {
        throw std::runtime_error("n_threads must be from 1 to " + std::to_string(PI_MAX_THREADS));
    }
    if (params.exact_shape < 0 || params.exact_shape > PI_MAX_ROWS) {
        throw std::runtime_error("exact_shape must be from 0 to " + std::to_string(PI_MAX_ROWS));
    }
    if (params.n_ranks > 1 && !params.mpi) {
        throw std::runtime_error("several ranks need an MPI");
    }
    if (params.n_ranks == 1 && params.layer_first == params.layer_last) {
        throw std::runtime_error("a single rank needs layers");
    }
    if (params.emulation && params.layer_first != params.layer_last && params.emulation->n_stage_us < params.n_batch) {
        throw std::runtime_error("an emulated stage needs a time for each number of tokens up to n_batch");
    }
    if (params.emulation && !(params.emulation->bytes_per_us > 0)) {
        throw std::runtime_error("an emulated link needs a bandwidth above 0");
    }
    return params;
}

pi_engine::pi_engine(const pi_engine_params & params) : params_(check(params)), stage_(load_stage(params)) {
    if (params.n_ranks > 1) {
        // results have neither hidden states nor masks
        const size_t n_embd   = stage_ ? size_t(stage_->n_embd()) : 0;
        const size_t n_vocab  = stage_ ? size_t(stage_->n_vocab()) : 0;
        const size_t n_stages = size_t(params.n_ranks - params.stage_rank0);

        comm_params comm_params;
        comm_params.data          = params.mpi->comm_data;
        comm_params.control       = params.mpi->comm_control;
        comm_params.rank          = params.rank;
        comm_params.data_source   = is_head() ? params.n_ranks - 1 : params.rank - 1;
        comm_params.max_message   = wire_max_size(size_t(params.n_batch), n_embd, n_vocab, n_stages);
        comm_params.has_own_cores = params.has_own_cores != 0;
        comm_params.pause_us      = params.emulation ? emulated_pause_us(*params.emulation) : 0;

        comm_ = std::make_unique<comm>(
            comm_params, mpi_calls_find(*params.mpi),
            [this](const uint8_t * data, size_t size) { on_data(data, size); },
            [this](const control_message & message) { on_control(message); },
            [this](const std::string & why) { set_failure("rank " + std::to_string(params_.rank) + ": " + why); });
    }
    if (params.emulation) {
        link_.emplace(*params.emulation);
        wait_precisely(); // this thread will call wait()
    }
}

void pi_engine::start() {
    if (stage_) {
        compute_thread_ = std::thread([this] { compute_loop(); });
        if (const std::exception_ptr error = warm_.pop().value()) {
            std::rethrow_exception(error);
        }
    }
    is_warm_ = true; // without layers, too: nobody waits for warm_ then
    if (comm_) {
        comm_->start();
    }
}

pi_engine::~pi_engine() {
    end_comm();
    end_compute();
}

bool pi_engine::end_compute() {
    if (stage_) {
        stage_->cancels.cancel(0, std::numeric_limits<uint64_t>::max());
    }
    inbox_.close();
    if (compute_thread_.joinable()) {
        // a weight that a dead file server holds back can block it for ever
        if (is_stuck_ || !compute_over_.pop_for(std::chrono::milliseconds(COMPUTE_END_MS))) {
            return false;
        }
        compute_thread_.join();
    }
    return true;
}

//
// the head's calls
//

pi_status pi_engine::submit(const pi_run & run) {
    const char * fault = !is_head() ? "only the head submits" :
                         run.run_id <= last_run_id_ ?
                                      "run ids must grow" :
                                      run_find_fault(run, params_.n_batch, PI_MAX_SEQ - (params_.exact_shape > 0));
    if (fault) {
        last_error = fault;
        return PI_ERR_INVALID;
    }
    if (has_failed_) {
        return failed();
    }
    last_run_id_ = run.run_id;

    run_state state;
    state.run_id     = run.run_id;
    state.arrived_us = now_us();
    state.sent_us    = state.arrived_us;
    state.kv_ops.assign(run.kv_ops, run.kv_ops + run.n_kv_ops);
    state.tokens.assign(run.tokens, run.tokens + run.n_tokens);
    state.seq_ids.assign(run.seq_ids, run.seq_ids + run.n_seq_ids);
    state.samples.assign(run.samples, run.samples + run.n_samples);
    for (int32_t i = 0; i < run.n_masks; i++) {
        mask_encode(run.masks + size_t(i) * run.n_mask_words, size_t(run.n_mask_words), state.masks);
    }

    if (stage_) {
        inbox_.push(std::move(state));
    } else {
        comm_->send_data(params_.stage_rank0, wire_encode(WIRE_RUN, state));
    }
    return PI_OK;
}

pi_status pi_engine::wait(int32_t timeout_ms, pi_result & result) {
    std::optional<run_state> next;
    if (!has_failed_) {
        next = results_.pop_for(std::chrono::milliseconds(timeout_ms));
    }
    if (has_failed_) {
        return failed();
    }
    if (!next) {
        return PI_TIMEOUT;
    }
    current_ = std::move(*next);

    result          = {};
    result.run_id   = current_.run_id;
    result.status   = current_.status;
    result.n_rows   = int32_t(current_.rows.size());
    result.n_times  = int32_t(current_.times.size());
    result.in_bytes = current_.in_bytes;
    result.rows     = current_.rows.data();
    result.times    = current_.times.data();
    return PI_OK;
}

void pi_engine::cancel(uint64_t run_first, uint64_t run_last) {
    run_last = std::min(run_last, last_run_id_); // runs that are yet to come are not meant
    if (run_first > run_last) {
        return;
    }
    control_message message;
    message.kind      = CONTROL_CANCEL;
    message.run_first = run_first;
    message.run_last  = run_last;
    message.sent_us   = now_us();
    // the other stages first: their messages are under way while we take our own lock
    for (int rank = 1; rank < params_.n_ranks; rank++) {
        comm_->send_control(rank, message);
    }
    if (stage_) {
        stage_->cancels.cancel(run_first, run_last, link_ ? message.sent_us : 0);
    }
}

void pi_engine::stop(int32_t exit_code) {
    control_message message;
    message.kind      = CONTROL_STOP;
    message.exit_code = exit_code;
    for (int rank = 1; is_head() && rank < params_.n_ranks; rank++) {
        comm_->send_control(rank, message);
    }
}

//
// every rank
//

pi_status pi_engine::serve(int32_t timeout_ms, int32_t & exit_code) {
    const std::optional<int32_t> code = stops_.pop_for(std::chrono::milliseconds(timeout_ms));
    if (has_failed_) {
        return failed();
    }
    if (!code) {
        return PI_TIMEOUT;
    }
    exit_code = *code;
    return PI_STOPPED;
}

void pi_engine::fail(const std::string & why) {
    if (is_head()) {
        set_failure("rank 0: " + why);
        return;
    }
    control_message message;
    message.kind = CONTROL_FAILURE;
    strncpy(message.text, why.c_str(), sizeof(message.text) - 1);
    comm_->send_control(0, message);
}

void pi_engine::set_failure(const std::string & why) {
    {
        std::lock_guard<std::mutex> lock(failure_mutex_);
        if (failure_.empty()) {
            failure_ = why;
        }
    }
    has_failed_ = true;
    nudge();
    stops_.nudge();
}

pi_status pi_engine::failed() {
    std::lock_guard<std::mutex> lock(failure_mutex_);
    last_error = failure_;
    return PI_ERR_FAILED;
}

void pi_engine::activity(uint64_t values[4]) const {
    values[0] = computing_run_;
    values[1] = values[0] == 0 ? 0 : now_us() - std::min(now_us(), computing_since_us_.load());
    values[2] = done_run_;
    values[3] = stage_ ? stage_->cancels.n_checks() : 0;
}

pi_status pi_engine::nudge() {
    results_.nudge();
    return has_failed_ ? PI_ERR_FAILED : PI_OK;
}

void pi_engine::compute_loop() {
    name_thread("pi-compute");
    if (link_) {
        wait_precisely();
    }
    std::exception_ptr error;
    try {
        stage_->warm_up(); // here, so that only this thread ever computes
    } catch (...) {
        error = std::current_exception();
    }
    warm_.push(error);
    if (!error) {
        compute_runs();
    }
    compute_over_.push(true);
}

void pi_engine::on_assertion(const std::string & why) {
    is_stuck_ = true;
    if (is_warm_) {
        fail(why);
    } else {
        warm_.push(std::make_exception_ptr(model_error(why)));
    }
}

void pi_engine::compute_runs() {
    while (std::optional<run_state> run = inbox_.pop()) {
        if (comm_) {
            comm_->set_computing(true);
        }
        const uint64_t run_id = run->run_id;
        computing_since_us_   = now_us();
        computing_run_        = run_id;
        try {
            stage_->step(*run);
            hand_on(std::move(*run));
        } catch (const std::exception & error) {
            fail(error.what());
            return;
        }
        done_run_      = run_id;
        computing_run_ = 0;
        if (comm_) {
            comm_->set_computing(false);
        }
    }
}

void pi_engine::hand_on(run_state run) {
    if (!is_last()) {
        comm_->send_data(params_.rank + 1, wire_encode(WIRE_RUN, run));
        return;
    }
    // of a result, the rows are all that travels
    run.kv_ops.clear();
    run.tokens.clear();
    run.seq_ids.clear();
    run.samples.clear();
    run.masks.clear();
    run.hidden.clear();
    if (is_head()) {
        results_.push(std::move(run));
    } else {
        comm_->send_data(0, wire_encode(WIRE_RESULT, run));
    }
}

//
// on the comm thread
//

void pi_engine::on_data(const uint8_t * data, size_t size) {
    wire_kind kind;
    run_state run  = wire_decode(data, size, kind);
    run.arrived_us = now_us();
    run.in_bytes   = uint32_t(size);

    uint64_t due_us = 0;
    if (link_) {
        due_us = run.arrived_us = link_->arrival_us(run);
    }
    if (kind == WIRE_RESULT) {
        results_.push(std::move(run), due_us);
    } else {
        inbox_.push(std::move(run), due_us);
    }
}

void pi_engine::on_control(const control_message & message) {
    switch (message.kind) {
        case CONTROL_CANCEL:
            if (stage_) {
                const uint64_t due_us = link_ ? link_->cancel_arrival_us(message.sent_us) : 0;
                stage_->cancels.cancel(message.run_first, message.run_last, due_us);
            }
            break;
        case CONTROL_FAILURE:
            set_failure("rank " + std::to_string(message.source) + ": " + message.text);
            break;
        case CONTROL_STOP:
            stops_.push(message.exit_code);
            break;
    }
}
