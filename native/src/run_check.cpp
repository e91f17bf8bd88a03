#include "run_check.h"

#include "wire.h"

#include <cstdint>

static const char * find_fault(const pi_kv_op & op, int32_t n_seq) {
    const auto is_seq = [n_seq](int32_t seq) { return 0 <= seq && seq < n_seq; };
    switch (op.kind) {
        case PI_KV_COPY:
            return is_seq(op.seq_src) && is_seq(op.seq_dst) ? nullptr : "a copy needs two sequence ids";
        case PI_KV_REMOVE:
            return is_seq(op.seq_src) || op.seq_src == -1 ? nullptr : "a removal needs a sequence id, or -1";
        case PI_KV_COMPACT:
            return nullptr;
    }
    return "unknown kind of KV operation";
}

// A gap, or a second token, at a sequence's next position would leave cells that are nobody's to remove.
static const char * find_gap(const pi_run & run) {
    int64_t next[PI_MAX_SEQ] = {}; // position after the sequence's last token; 0: no token yet

    const int32_t * seq_id = run.seq_ids;
    for (int32_t i = 0; i < run.n_tokens; i++) {
        const pi_token & token = run.tokens[i];
        for (int32_t j = 0; j < token.n_seq; j++, seq_id++) {
            if (next[*seq_id] != 0 && next[*seq_id] != token.position) {
                return "the positions of a sequence must follow one another";
            }
            next[*seq_id] = int64_t(token.position) + 1;
        }
    }
    return nullptr;
}

const char * run_find_fault(const pi_run & run, int32_t n_batch, int32_t n_seq) {
    if (run.n_tokens < 0 || run.n_tokens > n_batch) {
        return "a run has more tokens than n_batch";
    }
    if (run.n_kv_ops < 0 || size_t(run.n_kv_ops) > WIRE_MAX_KV_OPS) {
        return "a run has too many KV operations";
    }
    if (run.n_samples < 0 || run.n_samples > run.n_tokens) {
        return "a run has more samples than tokens";
    }
    if (run.n_masks < 0 || run.n_masks > PI_MAX_ROWS || (run.n_masks > 0 && run.n_mask_words < 1)) {
        return "a run has more masks than rows, or masks without words";
    }
    for (int32_t i = 0; i < run.n_kv_ops; i++) {
        if (const char * fault = find_fault(run.kv_ops[i], n_seq)) {
            return fault;
        }
    }
    int64_t n_seq_ids = 0;
    int32_t n_rows    = 0;
    for (int32_t i = 0; i < run.n_tokens; i++) {
        if (run.tokens[i].n_seq < 1 || run.tokens[i].n_seq > PI_MAX_SEQ || run.tokens[i].position < 0) {
            return "a token needs a position and 1 to PI_MAX_SEQ sequence ids";
        }
        if (run.tokens[i].want != 0 && run.tokens[i].want != 1) {
            return "want is 0 or 1";
        }
        if (run.tokens[i].sample < -1 || run.tokens[i].sample >= run.n_samples) {
            return "sample is -1 or an index into the run's samples";
        }
        if (run.tokens[i].mask < -1 || run.tokens[i].mask >= run.n_masks) {
            return "mask is -1 or an index into the run's masks";
        }
        n_seq_ids += run.tokens[i].n_seq;
        n_rows += run.tokens[i].want;
    }
    if (n_rows > PI_MAX_ROWS) {
        return "more than PI_MAX_ROWS tokens want a row";
    }
    if (n_seq_ids != run.n_seq_ids) {
        return "n_seq_ids is not the sum of the tokens' n_seq";
    }
    for (int32_t i = 0; i < run.n_seq_ids; i++) {
        if (run.seq_ids[i] < 0 || run.seq_ids[i] >= n_seq) {
            return "a sequence id is out of [0, PI_MAX_SEQ)";
        }
    }
    return find_gap(run);
}
