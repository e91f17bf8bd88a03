#include "draft.h"

#include "assertions.h"
#include "log.h"
#include "model_error.h"
#include "sampler.h"

#include "llama-pipeline.h"

#include <stdexcept>
#include <thread>
#include <vector>

void pi_draft::model_deleter::operator()(llama_model * model) const {
    llama_model_free(model);
}

void pi_draft::context_deleter::operator()(llama_context * context) const {
    llama_free(context);
}

pi_draft::pi_draft(const pi_draft_params & params) :
    threads_({ "pi-draft", params.n_threads, params.has_own_cores != 0, /*takes_turns*/ true,
               make_cpu_list(params.cpus, params.n_cpus) }),
    listener_([this](const std::string & why) {
        is_stuck_ = true;
        warm_.push(std::make_exception_ptr(model_error(why)));
    }) {
    const cpu_binding     near_them(threads_.cpus()); // memory is taken where it is first written to
    const assertion_guard guard;
    log_reset_errors();
    model_.reset(llama_model_load_from_file(params.model_path, llama_model_default_params()));
    if (!model_) {
        throw_logged("llama.cpp could not load the model");
    }
    llama_context_params context_params = llama_context_default_params();

    context_params.n_ctx           = uint32_t(params.n_cells);
    context_params.n_batch         = uint32_t(params.n_batch);
    context_params.n_ubatch        = uint32_t(params.n_batch);
    context_params.n_threads       = params.n_threads;
    context_params.n_threads_batch = params.n_threads;
    context_params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;

    context_.reset(llama_init_from_model(model_.get(), context_params));
    if (!context_) {
        throw_logged("llama.cpp could not create the context");
    }
    llama_set_rope_n_ctx(context_.get(), uint32_t(params.n_ctx));
    threads_.attach(context_.get());
}

pi_draft::~pi_draft() = default;

void pi_draft::start() {
    std::thread              thread([this] {
        std::exception_ptr error;
        try {
            const int32_t first = 0;
            feed(&first, 1);
            llama_memory_clear(llama_get_memory(context_.get()), true);
            n_fed_ = 0;
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

void pi_draft::keep(int32_t n_tokens) {
    if (n_tokens < n_fed_) {
        llama_memory_seq_rm(llama_get_memory(context_.get()), 0, n_tokens, -1);
        n_fed_ = n_tokens;
    }
}

void pi_draft::feed(const int32_t * tokens, int32_t n_tokens) {
    std::vector<llama_token> copy(tokens, tokens + n_tokens); // llama.cpp's batch is not const
    log_reset_errors();
    int32_t status = 0;
    {
        const cpu_binding           binding(threads_.cpus()); // this thread does other work, too
        const compute_threads::turn turn(threads_);
        status = llama_decode(context_.get(), llama_batch_get_one(copy.data(), n_tokens));
    }
    if (status != 0) {
        throw_logged("llama_decode failed");
    }
    n_fed_ += n_tokens;
}

int32_t pi_draft::top(int32_t n_vocab, const pi_sample_params & params, int32_t n_max, int32_t * tokens,
                      float * probabilities) const {
    const float * logits = llama_get_logits_ith(context_.get(), -1);
    const int32_t n      = token_sample_top(logits, n_vocab, n_fed_, params, n_max, tokens);
    token_probabilities(logits, n_vocab, tokens, n, probabilities);
    return n;
}
