#include "wire.h"

#include "mask.h"

#include <cstring>
#include <stdexcept>

static constexpr uint32_t WIRE_MAGIC = 0x31465049; // "IPF1"

size_t wire_max_size(size_t n_tokens_max, size_t n_embd, size_t n_vocab, size_t n_stages) {
    return sizeof(wire_header) + WIRE_MAX_KV_OPS * sizeof(pi_kv_op) + n_stages * sizeof(pi_stage_time) +
           n_tokens_max * (sizeof(pi_token) + PI_MAX_SEQ * sizeof(int32_t) + sizeof(pi_sample_params) +
                           sizeof(int32_t) + n_embd * sizeof(float)) +
           PI_MAX_ROWS * mask_max_size(n_vocab);
}

namespace {

template <typename T> void put(uint8_t *& at, const std::vector<T> & values) {
    if (!values.empty()) {
        memcpy(at, values.data(), values.size() * sizeof(T));
        at += values.size() * sizeof(T);
    }
}

template <typename T> void get(const uint8_t *& at, const uint8_t * end, std::vector<T> & values, size_t count) {
    if (size_t(end - at) < count * sizeof(T)) {
        throw std::runtime_error("a message between ranks is shorter than its header says");
    }
    values.resize(count);
    if (count > 0) {
        memcpy(values.data(), at, count * sizeof(T));
        at += count * sizeof(T);
    }
}

template <typename T> size_t bytes(const std::vector<T> & values) {
    return values.size() * sizeof(T);
}

} // namespace

wire_buffer wire_encode(wire_kind kind, const run_state & run) {
    wire_header header{};
    header.magic        = WIRE_MAGIC;
    header.kind         = kind;
    header.run_id       = run.run_id;
    header.sent_us      = run.sent_us;
    header.status       = run.status;
    header.n_kv_ops     = uint32_t(run.kv_ops.size());
    header.n_times      = uint32_t(run.times.size());
    header.n_tokens     = uint32_t(run.tokens.size());
    header.n_seq_ids    = uint32_t(run.seq_ids.size());
    header.n_rows       = uint32_t(run.rows.size());
    header.n_hidden     = uint32_t(run.hidden.size());
    header.n_samples    = uint32_t(run.samples.size());
    header.n_mask_bytes = uint32_t(run.masks.size());

    wire_buffer buffer(sizeof(header) + bytes(run.kv_ops) + bytes(run.times) + bytes(run.tokens) + bytes(run.seq_ids) +
                       bytes(run.samples) + bytes(run.masks) + bytes(run.rows) + bytes(run.hidden));

    uint8_t * at = buffer.data.get();
    memcpy(at, &header, sizeof(header));
    at += sizeof(header);
    put(at, run.kv_ops);
    put(at, run.times);
    put(at, run.tokens);
    put(at, run.seq_ids);
    put(at, run.samples);
    put(at, run.masks);
    put(at, run.rows);
    put(at, run.hidden);
    return buffer;
}

run_state wire_decode(const uint8_t * data, size_t size, wire_kind & kind) {
    wire_header header;
    if (size < sizeof(header)) {
        throw std::runtime_error("a message between ranks is shorter than a header");
    }
    memcpy(&header, data, sizeof(header));
    if (header.magic != WIRE_MAGIC) {
        throw std::runtime_error("a message between ranks is not one of ours: are all ranks the same build?");
    }
    kind = wire_kind(header.kind);

    run_state run;
    run.run_id  = header.run_id;
    run.sent_us = header.sent_us;
    run.status  = pi_run_status(header.status);

    const uint8_t * at  = data + sizeof(header);
    const uint8_t * end = data + size;
    get(at, end, run.kv_ops, header.n_kv_ops);
    get(at, end, run.times, header.n_times);
    get(at, end, run.tokens, header.n_tokens);
    get(at, end, run.seq_ids, header.n_seq_ids);
    get(at, end, run.samples, header.n_samples);
    get(at, end, run.masks, header.n_mask_bytes);
    get(at, end, run.rows, header.n_rows);
    get(at, end, run.hidden, header.n_hidden);
    return run;
}
