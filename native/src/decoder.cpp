#include "decoder.h"

#include "log.h"
#include "model_error.h"

#include "llama-pipeline.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>

// Of a device, before it is asked whether the run was cancelled.
static constexpr int CHECK_LAYERS = 4;

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

    // `is_whole`: all tokens have outputs
    llama_batch fill(const std::vector<pi_token> & run, const std::vector<int32_t> & run_seq_ids, float * hidden,
                     bool is_whole) {
        seq_ids.assign(run_seq_ids.begin(), run_seq_ids.end());
        llama_seq_id * seq_ids_at = seq_ids.data();
        for (size_t i = 0; i < run.size(); i++) {
            tokens[i]     = run[i].id;
            positions[i]  = run[i].position;
            n_seq[i]      = run[i].n_seq;
            seq_ids_of[i] = seq_ids_at;
            outputs[i]    = int8_t(is_whole ? 1 : run[i].want);
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

// Those that llama.cpp's programs allow.
static ggml_type cache_type(int32_t type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q4_1:
        case GGML_TYPE_IQ4_NL:
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q5_1:
            return ggml_type(type);
        default:
            throw std::runtime_error("a KV cache cannot have the type " + std::to_string(type));
    }
}

static void use_loras(llama_context * context, const std::vector<decoder::lora> & loras) {
    std::vector<llama_adapter_lora *> adapters;
    std::vector<float>                scales;
    for (const decoder::lora & each : loras) {
        adapters.push_back(each.adapter);
        scales.push_back(each.scale);
    }
    if (!loras.empty()) {
        llama_set_adapters_lora(context, adapters.data(), adapters.size(), scales.data());
    }
}

// How many positions a hidden state has: with M-RoPE, in time, height and width.
static size_t position_sections(const llama_model * model) {
    const llama_rope_type type = llama_model_rope_type(model);
    return type == LLAMA_ROPE_TYPE_MROPE || type == LLAMA_ROPE_TYPE_IMROPE ? GGML_MROPE_SECTIONS : 1;
}

static bool has_states(const llama_model * model) {
    return llama_model_is_hybrid(model);
}

// Returns how many sequences llama.cpp is to provide for: one of them is an empty text's.
static uint32_t check_states(const decoder::params & params) {
    const pi_states & states = params.states;
    if (states.n_places < 2 || states.n_places >= PI_MAX_SEQ || states.n_runs < 1 || states.n_tokens < 1 ||
        states.n_tokens >= params.n_batch) {
        throw std::runtime_error("states: n_places must be from 2 to " + std::to_string(PI_MAX_SEQ - 1) +
                                 ", n_runs at least 1, n_tokens at least 1 and less than n_batch");
    }
    return uint32_t(states.n_places) + 1;
}

static llama_context * make_context(llama_model * model, const decoder::params & params,
                                    ggml_backend_sched_eval_callback on_node, void * self) {
    llama_context_params context_params = llama_context_default_params();

    const int32_t n_batch = params.exact_shape > 0 ? params.exact_shape : params.n_batch;

    context_params.n_ctx           = uint32_t(params.n_cells + params.exact_shape); // what fills a run has cells, too
    context_params.n_batch         = uint32_t(n_batch);
    context_params.n_ubatch        = uint32_t(n_batch);
    // a stage that is not the last hands on every row
    context_params.n_outputs_max   = uint32_t(params.is_last ? std::min<int32_t>(n_batch, PI_MAX_ROWS) : n_batch);
    context_params.type_k          = cache_type(params.type_k);
    context_params.type_v          = cache_type(params.type_v);
    context_params.n_seq_max       = has_states(model) ? check_states(params) : PI_MAX_SEQ;
    context_params.n_rs_seq        = has_states(model) ? uint32_t(params.states.n_tokens - 1) : 0;
    context_params.kv_unified      = true; // sequences share the cells, so that copying one is free
    context_params.n_threads       = params.threads.n_threads;
    context_params.n_threads_batch = params.threads.n_threads;
    // bitwise equal results whatever the batch's shape need flash attention
    context_params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    context_params.swa_full        = true; // what was computed may be taken back
    context_params.pooling_type    = LLAMA_POOLING_TYPE_NONE; // hidden states of every token, whatever the GGUF is for
    context_params.embeddings      = !params.is_last;

    const pi_rope & rope = params.rope;

    context_params.rope_scaling_type = llama_rope_scaling_type(rope.scaling);
    context_params.rope_freq_base    = rope.freq_base;
    context_params.rope_freq_scale   = rope.freq_scale;
    context_params.yarn_ext_factor   = rope.yarn_ext_factor;
    context_params.yarn_attn_factor  = rope.yarn_attn_factor;
    context_params.yarn_beta_fast    = rope.yarn_beta_fast;
    context_params.yarn_beta_slow    = rope.yarn_beta_slow;
    context_params.yarn_orig_ctx     = uint32_t(rope.yarn_orig_ctx);

    if (params.on_devices && params.should_abort) {
        context_params.cb_eval           = on_node;
        context_params.cb_eval_user_data = self;
    }
    context_params.abort_callback      = params.should_abort;
    context_params.abort_callback_data = params.abort_data;

    log_reset_errors();
    llama_context * context = llama_init_from_model(model, context_params);
    if (!context) {
        throw_logged("llama.cpp could not create the context");
    }
    llama_set_rope_n_ctx(context, uint32_t(params.n_ctx));
    if (has_states(model)) {
        if (!llama_memory_keep_states(llama_get_memory(context), uint32_t(params.states.n_runs))) {
            llama_free(context);
            throw model_error("its layers have states that llama.cpp keeps in another way than those of other hybrids");
        }
    }
    if (params.exact_shape > 0 && !llama_set_exact_shape(context)) {
        llama_free(context);
        throw model_error(
            "runs of one shape need a KV cache of another kind than this architecture has: --exact-shape 0 does "
            "without");
    }
    use_loras(context, params.loras);
    return context;
}

decoder::decoder(llama_model * model, const params & params) :
    exact_shape_(params.exact_shape),
    should_abort_(params.should_abort),
    abort_data_(params.abort_data),
    n_embd_(size_t(llama_model_n_embd(model))),
    n_vocab_(size_t(llama_vocab_n_tokens(llama_model_get_vocab(model)))),
    is_last_(params.is_last),
    threads_(params.threads),
    context_(make_context(model, params, on_node, this)),
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
            copy(op);
            return;
        case PI_KV_REMOVE:
            log_reset_errors();
            if (!llama_memory_seq_rm(memory, op.seq_src, op.pos_first, op.pos_last)) {
                throw std::runtime_error("cannot go back to position " + std::to_string(op.pos_first) + ": " +
                                         log_first_error());
            }
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

// A text of recurrent layers has one state, or none: a copy is a whole text's.
void decoder::copy(const pi_kv_op & op) {
    llama_memory_t memory = llama_get_memory(context_.get());
    llama_memory_seq_cp(memory, op.seq_src, op.seq_dst, op.pos_first, op.pos_last);
    if (!has_states(llama_get_model(context_.get()))) {
        return;
    }
    const llama_pos last     = llama_memory_seq_pos_max(memory, op.seq_src);
    const llama_pos expected = op.pos_last < 0 ? last : std::min(last, op.pos_last - 1);
    if (op.pos_first > 0 || llama_memory_seq_pos_max(memory, op.seq_dst) != expected) {
        throw std::runtime_error("cannot copy the states of sequence " + std::to_string(op.seq_src) +
                                 " after position " + std::to_string(expected));
    }
}

bool decoder::compute(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids, float * hidden) {
    log_reset_errors();
    int32_t status = 0;
    {
        const compute_threads::turn turn(threads_);
        if (exact_shape_ == 0) {
            status = decode(batch_->fill(tokens, seq_ids, hidden, !is_last_));
        } else {
            status = compute_in_shape(tokens, seq_ids, hidden);
        }
    }
    switch (status) {
        case 0:
            return true;
        case 2: // aborted
            remove_cells(tokens, seq_ids);
            return false;
        case 1:
            throw std::runtime_error("no room in the KV cache of " + std::to_string(llama_n_ctx(context_.get())) +
                                     " cells for a run of " + std::to_string(tokens.size()) + " tokens" +
                                     (log_first_error().empty() ? "" : ": " + log_first_error()));
        default:
            throw std::runtime_error("llama_decode returned " + std::to_string(status) + ": " + log_first_error());
    }
}

int32_t decoder::decode(const llama_batch & batch) {
    is_aborted_          = false;
    const int32_t status = llama_decode(context_.get(), batch);
    return status == 0 && is_aborted_ ? 2 : status;
}

// A device computes what was given to it without a look at cancels. So it is given a few layers at a time.
bool decoder::on_node(ggml_tensor * node, bool ask, void * self) {
    auto * const decoder = static_cast<class decoder *>(self);
    if (ask) {
        int layer = 0;
        return decoder->is_aborted_ ||
               (sscanf(node->name, "l_out-%d", &layer) == 1 && layer % CHECK_LAYERS == CHECK_LAYERS - 1);
    }
    decoder->is_aborted_ = decoder->is_aborted_ || decoder->should_abort_(decoder->abort_data_);
    return !decoder->is_aborted_;
}

int32_t decoder::compute_in_shape(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids,
                                  float * hidden) {
    rows_.clear();
    row_of_.assign(tokens.size(), 0);
    const int32_t * seq_id = seq_ids.data();
    for (size_t first = 0; first < tokens.size(); first += size_t(exact_shape_)) {
        if (should_abort_ && should_abort_(abort_data_)) {
            return 2;
        }
        const size_t n_tokens = std::min(tokens.size() - first, size_t(exact_shape_));
        fill_shape(tokens, first, n_tokens, seq_id, hidden);
        const int32_t status =
            decode(batch_->fill(padded_, padded_seq_ids_, hidden ? padded_hidden_.data() : nullptr, true));
        if (status == 0) {
            keep_rows(tokens, first, n_tokens);
        }
        llama_memory_seq_rm(llama_get_memory(context_.get()), LLAMA_PADDING_SEQ, 0, -1);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

void decoder::fill_shape(const std::vector<pi_token> & tokens, size_t first, size_t n_tokens, const int32_t *& seq_id,
                         const float * hidden) {
    padded_.assign(tokens.begin() + ptrdiff_t(first), tokens.begin() + ptrdiff_t(first + n_tokens));
    padded_seq_ids_.clear();
    for (const pi_token & token : padded_) {
        padded_seq_ids_.insert(padded_seq_ids_.end(), seq_id, seq_id + token.n_seq);
        seq_id += token.n_seq;
    }
    for (int32_t position = 0; padded_.size() < size_t(exact_shape_); position++) {
        padded_.push_back({ 0, position, 1, 0, -1, -1 });
        padded_seq_ids_.push_back(LLAMA_PADDING_SEQ);
    }
    if (hidden) {
        padded_hidden_.assign(size_t(exact_shape_) * n_embd_, 0.0f);
        std::copy_n(hidden + first * n_embd_, n_tokens * n_embd_, padded_hidden_.begin());
    }
}

void decoder::keep_rows(const std::vector<pi_token> & tokens, size_t first, size_t n_tokens) {
    if (!is_last_) {
        const float * hidden = llama_get_embeddings(context_.get());
        rows_.insert(rows_.end(), hidden, hidden + n_tokens * n_embd_);
        return;
    }
    for (size_t i = 0; i < n_tokens; i++) {
        if (tokens[first + i].want) {
            const float * logits = llama_get_logits_ith(context_.get(), int32_t(i));
            row_of_[first + i]   = rows_.size() / n_vocab_;
            rows_.insert(rows_.end(), logits, logits + n_vocab_);
        }
    }
    llama_synchronize(context_.get()); // where no row was wanted: an error shows here
}

// llama.cpp takes an aborted run's positions from the first sequence id of each token only.
void decoder::remove_cells(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids) {
    llama_memory_t  memory = llama_get_memory(context_.get());
    const int32_t * seq_id = seq_ids.data();
    for (const pi_token & token : tokens) {
        for (int32_t i = 0; i < token.n_seq; i++) {
            llama_memory_seq_rm(memory, *seq_id++, token.position, -1);
        }
    }
}

void decoder::clear() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
}

const float * decoder::logits(size_t i) const {
    if (exact_shape_ > 0) {
        return rows_.data() + row_of_[i] * n_vocab_;
    }
    return llama_get_logits_ith(context_.get(), int32_t(i));
}

const float * decoder::hidden() const {
    return exact_shape_ > 0 ? rows_.data() : llama_get_embeddings(context_.get());
}

pi_device_bytes decoder::device_bytes() const {
    size_t weights, cache, compute;
    llama_device_memory(context_.get(), &weights, &cache, &compute);
    return { weights, cache, compute };
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
