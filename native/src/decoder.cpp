#include "decoder.h"

#include "log.h"
#include "model_error.h"

#include "llama-pipeline.h"

#include <algorithm>
#include <stdexcept>
#include <string>

void decoder::context_deleter::operator()(llama_context * context) const {
    llama_free(context);
}

// The arrays behind a llama_batch; they live as long as the decoder, so that a run allocates nothing.
struct decoder::batch_arrays {
    std::vector<llama_token>    tokens;
    std::vector<llama_pos>      positions;
    std::vector<int32_t>        n_seq;
    std::vector<llama_seq_id>   seq_ids;
    std::vector<llama_seq_id *> seq_ids_of;
    std::vector<int8_t>         outputs;
    const size_t                n_sections; // positions of one hidden state

    batch_arrays(size_t n_batch, size_t n_sections) :
        tokens(n_batch),
        positions(n_batch * n_sections),
        n_seq(n_batch),
        seq_ids_of(n_batch),
        outputs(n_batch),
        n_sections(n_sections) {}

    llama_batch fill(const std::vector<pi_token> & run, const std::vector<int32_t> & run_seq_ids, float * hidden,
                     bool is_last) {
        seq_ids.assign(run_seq_ids.begin(), run_seq_ids.end());
        llama_seq_id * seq_ids_at = seq_ids.data();
        for (size_t i = 0; i < run.size(); i++) {
            tokens[i]     = run[i].id;
            positions[i]  = run[i].position;
            n_seq[i]      = run[i].n_seq;
            seq_ids_of[i] = seq_ids_at;
            outputs[i]    = int8_t(is_last ? run[i].want : 1); // a stage that is not the last hands on every row
            seq_ids_at += run[i].n_seq;
        }
        fill_sections(run.size());

        llama_batch batch{};
        batch.n_tokens = int32_t(run.size());
        batch.token    = hidden ? nullptr : tokens.data();
        batch.embd     = hidden;
        batch.pos      = positions.data();
        batch.n_seq_id = n_seq.data();
        batch.seq_id   = seq_ids_of.data();
        batch.logits   = outputs.data();
        return batch;
    }

    // Each token of a text is at its position in time, height and width; the last section has no meaning. llama.cpp
    // does the same for tokens.
    void fill_sections(size_t n_tokens) {
        for (size_t section = 1; section < n_sections; section++) {
            const auto to = positions.begin() + ptrdiff_t(section * n_tokens);
            if (section < n_sections - 1) {
                std::copy_n(positions.begin(), n_tokens, to);
            } else {
                std::fill_n(to, n_tokens, 0);
            }
        }
    }
};

// How many positions a hidden state has: with M-RoPE, in time, height and width.
static size_t position_sections(const llama_model * model) {
    const llama_rope_type type = llama_model_rope_type(model);
    return type == LLAMA_ROPE_TYPE_MROPE || type == LLAMA_ROPE_TYPE_IMROPE ? GGML_MROPE_SECTIONS : 1;
}

static llama_context * make_context(llama_model * model, const decoder::params & params) {
    llama_context_params context_params = llama_context_default_params();

    context_params.n_ctx    = uint32_t(params.n_cells);
    context_params.n_batch  = uint32_t(params.n_batch);
    context_params.n_ubatch = uint32_t(params.n_batch);
    // a stage that is not the last hands on every row
    context_params.n_outputs_max =
        uint32_t(params.is_last ? std::min<int32_t>(params.n_batch, PI_MAX_ROWS) : params.n_batch);
    context_params.n_seq_max       = PI_MAX_SEQ;
    context_params.kv_unified      = true; // sequences share the cells, so that copying one is free
    context_params.n_threads       = params.threads.n_threads;
    context_params.n_threads_batch = params.threads.n_threads;
    // bitwise equal results whatever the batch's shape need flash attention
    context_params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    context_params.swa_full        = true; // what was computed may be taken back
    context_params.pooling_type    = LLAMA_POOLING_TYPE_NONE; // hidden states of every token, whatever the GGUF is for
    context_params.embeddings      = !params.is_last;

    context_params.abort_callback      = params.should_abort;
    context_params.abort_callback_data = params.abort_data;

    log_reset_errors();
    llama_context * context = llama_init_from_model(model, context_params);
    if (!context) {
        throw_logged("llama.cpp could not create the context");
    }
    llama_set_rope_n_ctx(context, uint32_t(params.n_ctx));
    return context;
}

decoder::decoder(llama_model * model, const params & params) :
    is_last_(params.is_last),
    threads_(params.threads),
    context_(make_context(model, params)),
    batch_(std::make_unique<batch_arrays>(size_t(params.n_batch), position_sections(model))) {
    if (llama_memory_compact(llama_get_memory(context_.get())) < 0) { // nothing to do, but can it be done?
        throw model_error(
            "llama.cpp keeps its KV cache in another way than for other architectures: its cells cannot be put in "
            "order");
    }
    threads_.attach(context_.get());
}

decoder::~decoder() = default;

void decoder::apply(const pi_kv_op & op) {
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

bool decoder::compute(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids, float * hidden) {
    log_reset_errors();
    int32_t status = 0;
    {
        const compute_threads::turn turn(threads_);
        status = llama_decode(context_.get(), batch_->fill(tokens, seq_ids, hidden, is_last_));
    }
    switch (status) {
        case 0:
            return true;
        case 2: // aborted
            remove_cells(tokens, seq_ids);
            return false;
        case 1:
            throw std::runtime_error("no room in the KV cache of " + std::to_string(llama_n_ctx(context_.get())) +
                                     " cells for a run of " + std::to_string(tokens.size()) + " tokens");
        default:
            throw std::runtime_error("llama_decode returned " + std::to_string(status) + ": " + log_first_error());
    }
}

// llama.cpp takes an aborted run's positions from the first sequence id of each token only.
void decoder::remove_cells(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids) {
    llama_memory_t  memory = llama_get_memory(context_.get());
    const int32_t * seq_id = seq_ids.data();
    for (const pi_token & token : tokens) {
        for (int32_t i = 0; i < token.n_seq; i++) {
            llama_memory_seq_rm(memory, *seq_id++, token.position, token.position + 1);
        }
    }
}

void decoder::clear() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
}

const float * decoder::logits(size_t i) const {
    return llama_get_logits_ith(context_.get(), int32_t(i));
}

const float * decoder::hidden() const {
    return llama_get_embeddings(context_.get());
}

int32_t decoder::kv_positions() const {
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
