#include "draft.h"

#include "assertions.h"
#include "devices.h"
#include "log.h"
#include "mask.h"
#include "model_error.h"
#include "sampler.h"

#include "llama.h"

#include <stdexcept>
#include <thread>

void pi_draft::model_deleter::operator()(llama_model * model) const {
    llama_model_free(model);
}

pi_draft::pi_draft(const pi_draft_params & params) :
    n_batch_(params.n_batch),
    cpus_(make_cpu_list(params.cpus, params.n_cpus)),
    listener_([this](const std::string & why) {
        is_stuck_ = true;
        warm_.push(std::make_exception_ptr(model_error(why)));
    }) {
    const cpu_binding     near_them(cpus_); // memory is taken where it is first written to
    const assertion_guard guard;
    llama_model_params    model_params = llama_model_default_params();

    std::vector<ggml_backend_dev_t> devices = devices_find(params.devices);
    model_params.devices                    = devices.data();
    model_params.n_gpu_layers               = params.devices.n_names > 0 ? params.devices.n_layers : 0;
    log_reset_errors();
    model_.reset(llama_model_load_from_file(params.model_path, model_params));
    if (!model_) {
        throw_logged("llama.cpp could not load the model");
    }
    if (llama_model_is_hybrid(model_.get())) {
        throw model_error("a model with recurrent layers cannot draft: use another one, or --drafter ngram");
    }
    decoder::params decoder_params;
    decoder_params.threads = { "pi-draft", params.n_threads, params.has_own_cores != 0, /*takes_turns*/ true, cpus_ };
    decoder_params.n_ctx   = params.n_ctx;
    decoder_params.n_cells = params.n_cells;
    decoder_params.n_batch = params.n_batch;
    decoder_params.type_k  = params.type_k;
    decoder_params.type_v  = params.type_v;
    decoder_params.is_last = true;
    decoder_               = std::make_unique<decoder>(model_.get(), decoder_params);
}

pi_draft::~pi_draft() = default;

void pi_draft::start() {
    std::thread              thread([this] {
        std::exception_ptr error;
        try {
            decoder_->compute({ { 0, 0, 1, 1, -1, -1 } }, { 0 });
            decoder_->clear();
        } catch (...) {
            error = std::current_exception();
        }
        warm_.push(error);
    });
    const std::exception_ptr error = warm_.pop().value();
    is_stuck_ ? thread.detach() : thread.join();
    if (error) {
        std::rethrow_exception(error);
    }
}

void pi_draft::vocab(int32_t & n_tokens, int32_t & eos) const {
    const llama_vocab * vocab = llama_model_get_vocab(model_.get());
    n_tokens                  = llama_vocab_n_tokens(vocab);
    eos                       = llama_vocab_eos(vocab);
}

void pi_draft::expand(const pi_run & run, int32_t n_vocab, const pi_sample_params & params, int32_t n_max, int32_t * n,
                      int32_t * tokens, float * probabilities) {
    for (int32_t i = 0; i < run.n_kv_ops; i++) {
        decoder_->apply(run.kv_ops[i]);
    }
    if (run.n_tokens == 0) {
        return;
    }
    tokens_.assign(run.tokens, run.tokens + run.n_tokens);
    seq_ids_.assign(run.seq_ids, run.seq_ids + run.n_seq_ids);
    {
        const cpu_binding binding(cpus_); // this thread does other work, too
        decoder_->compute(tokens_, seq_ids_);
    }
    for (size_t i = 0; i < tokens_.size(); i++) {
        if (!tokens_[i].want) {
            continue;
        }
        const float *    logits = decoder_->logits(i);
        const int32_t    index  = tokens_[i].mask;
        const uint32_t * mask   = index < 0 ? nullptr : run.masks + size_t(index) * run.n_mask_words;
        if (mask) {
            logits = mask_apply(mask, logits, n_vocab);
        }
        *n = token_sample_top(logits, n_vocab, tokens_[i].position + 1, params, n_max, tokens);
        if (mask && !mask_allows(mask, tokens[0])) {
            *n = 0;
        }
        token_probabilities(logits, n_vocab, tokens, *n, probabilities);
        n++;
        tokens += n_max;
        probabilities += n_max;
    }
}
