#include "stage.h"

#include "assertions.h"
#include "clock.h"
#include "log.h"
#include "model_error.h"
#include "sampler.h"

#include "llama-pipeline.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

void stage::model_deleter::operator()(llama_model * model) const {
    llama_model_free(model);
}

void stage::context_deleter::operator()(llama_context * context) const {
    llama_free(context);
}

// The arrays behind a llama_batch; they live as long as the stage, so that a run allocates nothing.
struct stage::batch_arrays {
    std::vector<llama_token>    tokens;
    std::vector<llama_pos>      positions;
    std::vector<int32_t>        n_seq;
    std::vector<llama_seq_id *> seq_ids;
    std::vector<int8_t>         outputs;

    explicit batch_arrays(size_t n_batch) :
        tokens(n_batch),
        positions(n_batch),
        n_seq(n_batch),
        seq_ids(n_batch),
        outputs(n_batch) {}

    // A view of the run, valid as long as the run is.
    llama_batch fill(run_state & run, bool is_first, bool is_last) {
        llama_seq_id * seq_ids_at = run.seq_ids.data();
        for (size_t i = 0; i < run.tokens.size(); i++) {
            const pi_token & token = run.tokens[i];

            tokens[i]    = token.id;
            positions[i] = token.position;
            n_seq[i]     = token.n_seq;
            seq_ids[i]   = seq_ids_at;
            outputs[i]   = int8_t(is_last ? token.want : 1); // a stage that is not the last hands on every row
            seq_ids_at += token.n_seq;
        }

        llama_batch batch{};
        batch.n_tokens = int32_t(run.tokens.size());
        batch.token    = is_first ? tokens.data() : nullptr;
        batch.embd     = is_first ? nullptr : run.hidden.data();
        batch.pos      = positions.data();
        batch.n_seq_id = n_seq.data();
        batch.seq_id   = seq_ids.data();
        batch.logits   = outputs.data();
        return batch;
    }
};

static llama_model * load_layers(const stage_params & params) {
    llama_model_params model_params = llama_model_default_params();

    if (params.reads_weights) {
        model_params.load_mode = LLAMA_LOAD_MODE_NONE;
        model_params.lazy_mode = LLAMA_LAZY_MODE_OFF;
    }
    log_reset_errors();
    llama_model * model = llama_model_load_stage_from_file(params.model_path.c_str(), model_params, params.layer_first,
                                                           params.layer_last);
    if (!model) {
        throw_logged("llama.cpp could not load the model");
    }
    return model;
}

static llama_context * make_context(llama_model * model, const stage_params & params,
                                    ggml_abort_callback abort_callback, void * abort_data) {
    llama_context_params context_params = llama_context_default_params();

    context_params.n_ctx    = uint32_t(params.n_cells);
    context_params.n_batch  = uint32_t(params.n_batch);
    context_params.n_ubatch = uint32_t(params.n_batch);
    // a stage that is not the last hands on every row
    context_params.n_outputs_max =
        uint32_t(params.is_last ? std::min<int32_t>(params.n_batch, PI_MAX_ROWS) : params.n_batch);
    context_params.n_seq_max       = PI_MAX_SEQ;
    context_params.kv_unified      = true; // sequences share the cells, so that copying one is free
    context_params.n_threads       = params.n_threads;
    context_params.n_threads_batch = params.n_threads;
    // bitwise equal results whatever the batch's shape need flash attention
    context_params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    context_params.swa_full        = true; // runs in flight may be taken back
    context_params.pooling_type    = LLAMA_POOLING_TYPE_NONE; // hidden states of every token, whatever the GGUF is for
    context_params.embeddings      = !params.is_last;

    context_params.abort_callback      = abort_callback;
    context_params.abort_callback_data = abort_data;

    log_reset_errors();
    llama_context * context = llama_init_from_model(model, context_params);
    if (!context) {
        throw_logged("llama.cpp could not create the context");
    }
    llama_set_rope_n_ctx(context, uint32_t(params.n_ctx));
    return context;
}

stage::stage(const stage_params & params) :
    params_(params),
    threads_({ "pi-compute", params.n_threads, params.has_own_cores, params.takes_turns, params.cpus }) {
    const auto should_abort = [](void * data) { return static_cast<cancel_board *>(data)->should_abort(); };

    {
        const cpu_binding     near_them(params.cpus); // memory is taken where it is first written to
        const assertion_guard guard;
        model_.reset(load_layers(params));
        context_.reset(make_context(model_.get(), params, should_abort, &cancels));
    }
    if (llama_memory_compact(llama_get_memory(context_.get())) < 0) { // nothing to do, but can it be done?
        throw model_error(
            "llama.cpp keeps its KV cache in another way than for other architectures: cells cannot be "
            "put in order, on which the text would depend");
    }
    threads_.attach(context_.get());
    batch_ = std::make_unique<batch_arrays>(size_t(params.n_batch));
    if (params.emulation) {
        clock_.emplace(*params.emulation);
    }

    n_embd_  = llama_model_n_embd(model_.get());
    n_vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
}

stage::~stage() = default;

void stage::warm_up() {
    run_state run;
    run.tokens  = { { 0, 0, 1, 1, -1 } };
    run.seq_ids = { 0 };
    if (!params_.is_first) {
        run.hidden.assign(size_t(n_embd_), 0.0f);
    }
    compute(run);
    last_logits_ = nullptr;
    llama_memory_clear(llama_get_memory(context_.get()), true);
    if (params_.locks_memory && mlockall(MCL_CURRENT) != 0) {
        throw std::runtime_error(std::string("--mlock: memory cannot be locked (") + strerror(errno) +
                                 "): raise its limit (ulimit -l), or leave --mlock out");
    }
}

void stage::step(run_state & run) {
    const uint64_t start_us = clock_ ? clock_->begin(run.arrived_us) : now_us();
    const bool     is_new   = run.status == PI_COMPLETED;

    bool is_aborted = false;

    for (const pi_kv_op & op : run.kv_ops) {
        apply(op);
    }
    if (!cancels.begin(run.run_id, start_us) || !is_new) {
        run.give_up();
    } else if (!run.tokens.empty() && !take_time(run)) {
        run.give_up();
        is_aborted = true;
    }
    cancels.end();

    pi_stage_time time{};
    time.start_us   = start_us;
    time.wait_us    = uint32_t(start_us - std::min(run.arrived_us, start_us));
    time.compute_us = uint32_t((clock_ ? clock_->end_us() : now_us()) - start_us);
    time.stage      = params_.index;
    time.status     = is_aborted ? PI_ABORTED : run.status;
    time.in_bytes   = run.in_bytes;
    time.late_us    = clock_ ? clock_->late_us() : 0;
    run.sent_us     = start_us + time.compute_us;
    run.times.push_back(time);
}

void stage::apply(const pi_kv_op & op) {
    llama_memory_t memory = llama_get_memory(context_.get());
    switch (op.kind) {
        case PI_KV_COPY:
            llama_memory_seq_cp(memory, op.seq_src, op.seq_dst, op.pos_first, op.pos_last);
            return;
        case PI_KV_REMOVE:
            llama_memory_seq_rm(memory, op.seq_src, op.pos_first, op.pos_last);
            return;
        case PI_KV_COMPACT:
            llama_synchronize(context_.get());
            if (llama_memory_compact(memory) < 0) {
                throw std::runtime_error("this model's KV cache cannot be compacted");
            }
            return;
    }
    throw std::runtime_error("unknown KV operation " + std::to_string(op.kind));
}

bool stage::take_time(run_state & run) {
    bool is_done = compute(run);
    if (clock_ && is_done && !clock_->wait(run.tokens.size(), cancels)) {
        remove_cells(run);
        is_done = false;
    }
    if (clock_ && !is_done) {
        clock_->abort(cancels.abort_us());
    }
    return is_done;
}

bool stage::compute(run_state & run) {
    if (!params_.is_first && run.hidden.size() != run.tokens.size() * size_t(n_embd_)) {
        throw std::runtime_error("hidden states of another width came in: do all ranks have the same model file?");
    }
    log_reset_errors();
    int32_t status = 0;
    {
        const compute_threads::turn turn(threads_);
        status = llama_decode(context_.get(), batch_->fill(run, params_.is_first, params_.is_last));
    }

    switch (status) {
        case 0:
            break;
        case 2: // aborted
            remove_cells(run);
            return false;
        case 1:
            throw std::runtime_error("no room in the KV cache of " + std::to_string(llama_n_ctx(context_.get())) +
                                     " cells for a run of " + std::to_string(run.tokens.size()) + " tokens");
        default:
            throw std::runtime_error("llama_decode returned " + std::to_string(status) + ": " + log_first_error());
    }

    if (params_.is_last) {
        sample(run);
    } else {
        const float * hidden = llama_get_embeddings(context_.get());
        run.hidden.assign(hidden, hidden + run.tokens.size() * size_t(n_embd_));
    }
    return true;
}

// llama.cpp takes an aborted run's positions from the first sequence id of each token only.
void stage::remove_cells(const run_state & run) {
    llama_memory_t  memory  = llama_get_memory(context_.get());
    const int32_t * seq_ids = run.seq_ids.data();
    for (const pi_token & token : run.tokens) {
        for (int32_t i = 0; i < token.n_seq; i++) {
            llama_memory_seq_rm(memory, *seq_ids++, token.position, token.position + 1);
        }
    }
}

void stage::sample(run_state & run) {
    for (size_t i = 0; i < run.tokens.size(); i++) {
        if (!run.tokens[i].want) {
            continue;
        }
        const pi_token &         token  = run.tokens[i];
        const pi_sample_params & sample = token.sample < 0 ? params_.sample : run.samples.at(size_t(token.sample));
        const float *            logits = llama_get_logits_ith(context_.get(), int32_t(i));
        run.rows.push_back(token_sample(logits, n_vocab_, token.position + 1, sample));
        last_logits_ = logits;
    }
}

int32_t stage::kv_positions() const {
    llama_memory_t memory = llama_get_memory(context_.get());
    int32_t        held   = 0;
    for (llama_seq_id seq = 0; seq < PI_MAX_SEQ; seq++) {
        const llama_pos last = llama_memory_seq_pos_max(memory, seq);
        if (last >= 0) {
            held += last - llama_memory_seq_pos_min(memory, seq) + 1;
        }
    }
    return held;
}
