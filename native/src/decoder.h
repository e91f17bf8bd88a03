#pragma once

#include "pipeinfer.h"
#include "threads.h"

#include <cstdint>
#include <memory>
#include <vector>

struct ggml_tensor;
struct llama_batch;
struct llama_model;
struct llama_context;
struct llama_adapter_lora;

// A llama.cpp context whose sequences share KV cells, as a stage and a draft model need it for trees of tokens; and the
// threads that it computes with. Used by one thread at a time.
class decoder {
  public:
    struct lora {
        llama_adapter_lora * adapter;
        float                scale;
    };

    struct params {
        compute_threads::params threads;

        int32_t n_ctx; // as in pi_engine_params
        int32_t n_cells;
        int32_t n_batch;
        int32_t type_k;
        int32_t type_v;
        bool    is_last; // rows are logits, of the tokens that want one; else hidden states, of all

        std::vector<lora> loras; // of the model, which has loaded them
        pi_rope           rope = { -1, 0, 0, -1, -1, -1, -1, 0 }; // the GGUF's own
        pi_states         states{}; // of recurrent layers

        int32_t exact_shape = 0; // as in pi_engine_params

        bool on_devices = false; // some layers are

        // asked once per graph node on the CPU, every few layers on devices, and before each batch; null: never
        bool (*should_abort)(void * data) = nullptr;
        void * abort_data                 = nullptr;
    };

    // The model must outlive it. Throws std::runtime_error.
    decoder(llama_model * model, const params & params);
    ~decoder();

    // Throws std::runtime_error if a recurrent layer's state is not kept any more.
    void apply(const pi_kv_op & op);

    // Computes a run's tokens, or their hidden states [n_tokens, n_embd] where they are given. False if it was aborted:
    // nothing of them is left in the cache. Throws std::runtime_error.
    bool compute(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids, float * hidden = nullptr);

    // Takes the cells of these tokens, which are the last ones of their sequences, away.
    void remove_cells(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids);

    // Forgets everything.
    void clear();

    const float * logits(size_t i) const; // of the i-th token computed, which must have wanted a row
    const float * hidden() const;

    // Of the model and the context, in memory of devices.
    pi_device_bytes device_bytes() const;

    // Positions held, from the first to the last one of each sequence, summed over the sequences.
    int32_t kv_positions() const;

  private:
    struct context_deleter {
        void operator()(llama_context * context) const;
    };
    struct batch_arrays;

    void        copy(const pi_kv_op & op);
    // As llama_decode, which takes no notice of should_abort on devices.
    int32_t     decode(const llama_batch & batch);
    // Called by ggml's scheduler while it computes: whether it is to be stopped after this node, or goes on after it.
    static bool on_node(ggml_tensor * node, bool ask, void * self);
    // In batches of one shape. Returns what llama_decode does.
    int32_t     compute_in_shape(const std::vector<pi_token> & tokens, const std::vector<int32_t> & seq_ids,
                                 float * hidden);
    // Makes one of them, from tokens of the run; `seq_id` moves on.
    void        fill_shape(const std::vector<pi_token> & tokens, size_t first, size_t n_tokens, const int32_t *& seq_id,
                           const float * hidden);
    // Keeps what it has computed for them, before the next one takes its place.
    void        keep_rows(const std::vector<pi_token> & tokens, size_t first, size_t n_tokens);

    bool          is_aborted_ = false; // by on_node
    const int32_t exact_shape_;
    bool (*const should_abort_)(void * data);
    void * const abort_data_;
    const size_t n_embd_;
    const size_t n_vocab_;

    // Of a run in a fixed shape: what it is filled up from, and what its batches have computed.
    std::vector<pi_token> padded_;
    std::vector<int32_t>  padded_seq_ids_;
    std::vector<float>    padded_hidden_;
    std::vector<float>    rows_; // logits of the tokens that want some, or hidden states of all
    std::vector<size_t>   row_of_; // by token

    const bool                                      is_last_;
    compute_threads                                 threads_;
    std::unique_ptr<llama_context, context_deleter> context_;
    std::unique_ptr<batch_arrays>                   batch_;
};
