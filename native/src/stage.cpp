#include "stage.h"

#include "assertions.h"
#include "clock.h"
#include "devices.h"
#include "log.h"
#include "mask.h"
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

static llama_model * load_layers(const stage_params & params) {
    llama_model_params model_params = llama_model_default_params();

    if (params.reads_weights) {
        model_params.load_mode = LLAMA_LOAD_MODE_NONE;
        model_params.lazy_mode = LLAMA_LAZY_MODE_OFF;
    }
    std::vector<ggml_backend_dev_t> devices = devices_find(params.devices);
    model_params.devices                    = devices.data();
    model_params.n_gpu_layers               = params.devices.n_names > 0 ? params.devices.n_layers : 0;
    log_reset_errors();
    llama_model * model = llama_model_load_stage_from_file(params.model_path.c_str(), model_params, params.layer_first,
                                                           params.layer_last);
    if (!model) {
        throw_logged("llama.cpp could not load the model");
    }
    return model;
}

[[noreturn]] static void throw_unusable(const char * adapter_path) {
    try {
        throw_logged("llama.cpp could not load it");
    } catch (const model_error & error) {
        throw model_error("LoRA adapter '" + std::string(adapter_path) + "': " + error.what());
    }
}

// What is of the model's layers; it lives as long as the model. All before there is a context, which makes room for them.
static std::vector<decoder::lora> load_adapters(llama_model * model, const stage_params & params) {
    std::vector<decoder::lora> loras;
    for (int32_t i = 0; i < params.n_adapters; i++) {
        log_reset_errors();
        llama_adapter_lora * adapter = llama_adapter_lora_init(model, params.adapters[i].path);
        if (!adapter) {
            throw_unusable(params.adapters[i].path);
        }
        loras.push_back({ adapter, params.adapters[i].scale });
    }
    return loras;
}

stage::stage(const stage_params & params) : params_(params) {
    decoder::params decoder_params;
    decoder_params.threads = { "pi-compute", params.n_threads, params.has_own_cores, params.takes_turns, params.cpus };
    decoder_params.n_ctx   = params.n_ctx;
    decoder_params.n_cells = params.n_cells;
    decoder_params.n_batch = params.n_batch;
    decoder_params.type_k  = params.type_k;
    decoder_params.type_v  = params.type_v;
    decoder_params.is_last = params.is_last;
    decoder_params.states  = params.states;
    decoder_params.exact_shape  = params.exact_shape;
    decoder_params.on_devices   = params.devices.n_names > 0;
    decoder_params.should_abort = [](void * data) { return static_cast<cancel_board *>(data)->should_abort(); };
    decoder_params.abort_data   = &cancels;
    {
        const cpu_binding     near_them(params.cpus); // memory is taken where it is first written to
        const assertion_guard guard;
        model_.reset(load_layers(params));
        decoder_params.loras = load_adapters(model_.get(), params);
        decoder_params.rope  = params.rope;
        decoder_             = std::make_unique<decoder>(model_.get(), decoder_params);
    }
    if (params.emulation) {
        clock_.emplace(*params.emulation);
    }

    n_embd_  = llama_model_n_embd(model_.get());
    n_vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
}

stage::~stage() = default;

void stage::warm_up() {
    run_state run;
    run.tokens  = { { 0, 0, 1, 1, -1, -1 } };
    run.seq_ids = { 0 };
    if (!params_.is_first) {
        run.hidden.assign(size_t(n_embd_), 0.0f);
    }
    compute(run);
    last_logits_ = nullptr;
    decoder_->clear();
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
        decoder_->apply(op);
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

bool stage::take_time(run_state & run) {
    bool is_done = compute(run);
    if (clock_ && is_done && !clock_->wait(run.tokens.size(), cancels)) {
        decoder_->remove_cells(run.tokens, run.seq_ids);
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
    if (!decoder_->compute(run.tokens, run.seq_ids, params_.is_first ? nullptr : run.hidden.data())) {
        return false;
    }
    if (params_.is_last) {
        sample(run);
    } else {
        const float * hidden = decoder_->hidden();
        run.hidden.assign(hidden, hidden + run.tokens.size() * size_t(n_embd_));
    }
    return true;
}

void stage::sample(run_state & run) {
    const std::vector<mask_words> masks = masks_decode(run.masks, n_vocab_);
    for (size_t i = 0; i < run.tokens.size(); i++) {
        if (!run.tokens[i].want) {
            continue;
        }
        const pi_token &         token  = run.tokens[i];
        const pi_sample_params & sample = token.sample < 0 ? params_.sample : run.samples.at(size_t(token.sample));
        const float *            logits = decoder_->logits(i);
        const uint32_t *         mask   = token.mask < 0 ? nullptr : masks.at(size_t(token.mask)).data();
        run.rows.push_back(token_sample(logits, n_vocab_, token.position + 1, sample, mask));
        last_logits_ = logits;
    }
}

int32_t stage::kv_positions() const {
    return decoder_->kv_positions();
}
