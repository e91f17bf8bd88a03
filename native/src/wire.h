#pragma once

#include "pipeinfer.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

// What travels between ranks: one message per run and hop, one fixed header followed by what the header counts.

// Bytes that are not zeroed when they are allocated: receive buffers are as large as the largest message.
struct wire_buffer {
    std::unique_ptr<uint8_t[]> data;
    size_t                     size = 0;

    wire_buffer() = default;

    explicit wire_buffer(size_t size) : data(new uint8_t[size]), size(size) {}
};

enum wire_kind : uint32_t {
    WIRE_RUN    = 1, // to the next stage
    WIRE_RESULT = 2, // from the last stage to the head
};

struct wire_header {
    uint32_t magic;
    uint32_t kind; // wire_kind
    uint64_t run_id;
    uint64_t sent_us; // sending host's monotonic clock
    uint32_t status; // pi_run_status so far: a cancelled run travels on without tokens and hidden states
    uint32_t n_kv_ops;
    uint32_t n_times;
    uint32_t n_tokens;
    uint32_t n_seq_ids;
    uint32_t n_rows;
    uint32_t n_hidden; // float32 values: n_tokens * n_embd, or 0 on the way to the first stage
    uint32_t n_samples;
    uint32_t n_mask_bytes;
};

// A run in a process, on its way from one stage to the next; with rows instead of tokens it is the run's result.
struct run_state {
    uint64_t      run_id     = 0;
    pi_run_status status     = PI_COMPLETED;
    uint64_t      arrived_us = 0; // host's monotonic clock; does not travel
    uint64_t      sent_us    = 0; // sending host's monotonic clock
    uint32_t      in_bytes   = 0; // of the message it came in; does not travel

    std::vector<pi_kv_op>         kv_ops;
    std::vector<pi_stage_time>    times;
    std::vector<pi_token>         tokens;
    std::vector<int32_t>          seq_ids;
    std::vector<pi_sample_params> samples;
    std::vector<uint8_t>          masks; // coded: see mask.h
    std::vector<int32_t>          rows;
    std::vector<float>            hidden; // [n_tokens, n_embd]

    // What a cancelled run leaves behind: its header and KV operations.
    void give_up() {
        status = PI_CANCELLED;
        tokens.clear();
        seq_ids.clear();
        samples.clear();
        masks.clear();
        rows.clear();
        hidden.clear();
    }
};

// The size of the largest message between two stages, or to the head.
size_t wire_max_size(size_t n_tokens_max, size_t n_embd, size_t n_vocab, size_t n_stages);

// Most KV operations that one run may carry.
constexpr size_t WIRE_MAX_KV_OPS = 4096;

wire_buffer wire_encode(wire_kind kind, const run_state & run);

// Throws std::runtime_error if the bytes are not a whole message.
run_state wire_decode(const uint8_t * data, size_t size, wire_kind & kind);
