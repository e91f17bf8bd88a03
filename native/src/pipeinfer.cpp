// The C ABI: no exception leaves it.

#include "pipeinfer.h"

#include "assertions.h"
#include "draft.h"
#include "engine.h"
#include "log.h"
#include "model_error.h"
#include "numa.h"
#include "run_check.h"
#include "sampler.h"
#include "vocab.h"

#include "ggml.h"
#include "llama-pipeline.h"
#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>

void pi_abi_sizes(size_t sizes[16]) {
    const size_t all[] = {
        sizeof(pi_kv_op),           sizeof(pi_token),         sizeof(pi_run),       sizeof(pi_stage_time),
        sizeof(pi_result),          sizeof(pi_sample_params), sizeof(pi_emulation), sizeof(pi_engine_params),
        sizeof(pi_quantize_params), sizeof(pi_draft_params),  sizeof(pi_adapter),   sizeof(pi_rope),
        sizeof(pi_states),          sizeof(pi_mpi),           sizeof(pi_devices),   sizeof(pi_device_bytes),
    };
    for (size_t i = 0; i < 16; i++) {
        sizes[i] = all[i];
    }
}

void pi_log_capture(int32_t verbose) {
    log_capture(verbose != 0);
    assertions_catch();
}

void pi_log_warnings(char * text, size_t size) {
    snprintf(text, size, "%s", log_take_warnings().c_str());
}

void pi_log_file(int32_t fd, const char * name) {
    log_to_file(fd, name);
}

const char * pi_stage_arch(int32_t i) {
    return llama_stage_arch(i);
}

int32_t pi_arch_states(const char * arch) {
    return llama_arch_states(arch);
}

int pi_tensor_type(int32_t type, int32_t * n_elements, int32_t * n_bytes) {
    if (type < 0 || type >= GGML_TYPE_COUNT || ggml_blck_size(ggml_type(type)) == 0) {
        return PI_ERR_INVALID; // a number of a type that was given up
    }
    *n_elements = int32_t(ggml_blck_size(ggml_type(type)));
    *n_bytes    = int32_t(ggml_type_size(ggml_type(type)));
    return PI_OK;
}

int pi_sample(const float * logits, int32_t n_vocab, int32_t position, const pi_sample_params * params, int32_t * token,
              float * probability) {
    int32_t n;
    return pi_sample_top(logits, n_vocab, position, params, 1, &n, token, probability);
}

int pi_sample_top(const float * logits, int32_t n_vocab, int32_t position, const pi_sample_params * params,
                  int32_t n_max, int32_t * n, int32_t * tokens, float * probabilities) {
    if (n_vocab < 1 || position < 0 || n_max < 1 || n_max > PI_MAX_TOP) {
        return PI_ERR_INVALID;
    }
    *n = token_sample_top(logits, n_vocab, position, *params, n_max, tokens);
    if (probabilities) {
        token_probabilities(logits, n_vocab, tokens, *n, probabilities);
    }
    return PI_OK;
}

// A new object, or nullptr with what is wrong in status and err.
template <typename T, typename P> static T * opened(const P & params, int & status, char * err, size_t err_size) {
    static std::once_flag backend;
    std::call_once(backend, llama_backend_init);
    status = PI_OK;
    try {
        return new T(params);
    } catch (const model_error & error) {
        status = PI_ERR_MODEL;
        snprintf(err, err_size, "%s", error.what());
    } catch (const std::exception & error) {
        status = PI_ERR_FAILED;
        snprintf(err, err_size, "%s", error.what());
    }
    return nullptr;
}

pi_vocab * pi_vocab_open(const char * path, char * err, size_t err_size) {
    int status;
    return opened<pi_vocab>(path, status, err, err_size);
}

const llama_model * pi_vocab_model(const pi_vocab * vocab) {
    return vocab->model();
}

int pi_vocab_tokenize(const pi_vocab * vocab, const char * text, size_t n_bytes, int32_t n_max, int32_t * n,
                      int32_t * tokens, char * err, size_t err_size) {
    try {
        const std::vector<int32_t> all = vocab->tokenize(std::string(text, n_bytes));
        *n                             = int32_t(all.size());
        if (*n > n_max) {
            return PI_ERR_INVALID;
        }
        std::copy(all.begin(), all.end(), tokens);
        return PI_OK;
    } catch (const std::exception & error) {
        snprintf(err, err_size, "%s", error.what());
        return PI_ERR_FAILED;
    }
}

void pi_vocab_close(pi_vocab * vocab) {
    delete vocab;
}

// How what was loaded ends: not at all, if a thread of it is stuck.
static void end(pi_draft * draft) {
    if (!draft->is_stuck()) {
        delete draft;
    }
}

static void end(pi_engine * engine) {
    engine->end_comm();
    if (engine->end_compute()) {
        delete engine;
    }
}

// Loaded and started, in memory of the NUMA nodes that were asked for.
template <typename T> struct started {
    template <typename P>
    explicit started(const P & params) :
        placement(make_node_list(params.nodes, params.n_nodes)),
        object(new T(params)) {
        try {
            object->start();
            placement.move_files();
        } catch (...) {
            end(object);
            throw;
        }
    }

    const memory_placement placement; // while it is being made
    T * const              object;
};

template <typename T, typename P> static T * started_by(const P & params, int & status, char * err, size_t err_size) {
    const std::unique_ptr<started<T>> opening(opened<started<T>>(params, status, err, err_size));
    return opening ? opening->object : nullptr;
}

pi_draft * pi_draft_open(const pi_draft_params * params, int * status, char * err, size_t err_size) {
    return started_by<pi_draft>(*params, *status, err, err_size);
}

void pi_draft_vocab(pi_draft * draft, int32_t * n_tokens, int32_t * eos) {
    draft->vocab(*n_tokens, *eos);
}

int pi_draft_expand(pi_draft * draft, const pi_run * run, int32_t n_vocab, const pi_sample_params * params,
                    int32_t n_max, int32_t * n, int32_t * tokens, float * probabilities) {
    const bool   is_in_range = n_vocab >= 1 && n_max >= 1 && n_max <= PI_MAX_TOP;
    const bool   has_bits    = run->n_masks == 0 || n_vocab <= int64_t(run->n_mask_words) * 32;
    const char * fault       = !is_in_range ? "n_vocab or n_max is out of range" :
                               !has_bits    ? "a mask has less than n_vocab bits" :
                                              run_find_fault(*run, draft->n_batch());
    if (fault) {
        draft->last_error = fault;
        return PI_ERR_INVALID;
    }
    try {
        draft->expand(*run, n_vocab, *params, n_max, n, tokens, probabilities);
        return PI_OK;
    } catch (const std::exception & error) {
        draft->last_error = error.what();
        return PI_ERR_FAILED;
    }
}

const char * pi_draft_error(pi_draft * draft) {
    return draft->last_error.c_str();
}

void pi_draft_close(pi_draft * draft) {
    if (draft) {
        end(draft);
    }
}

pi_engine * pi_engine_open(const pi_engine_params * params, int * status, char * err, size_t err_size) {
    return started_by<pi_engine>(*params, *status, err, err_size);
}

// What a call returns if it runs out of memory, or of threads.
template <typename F> static int guarded(pi_engine * engine, F call) {
    try {
        return call();
    } catch (const std::exception & error) {
        engine->fail(error.what());
        return PI_ERR_FAILED;
    }
}

int pi_submit(pi_engine * engine, const pi_run * run) {
    return guarded(engine, [&] { return engine->submit(*run); });
}

int pi_wait(pi_engine * engine, int32_t timeout_ms, pi_result * result) {
    return guarded(engine, [&] { return engine->wait(timeout_ms, *result); });
}

int pi_nudge(pi_engine * engine) {
    return guarded(engine, [&] { return engine->nudge(); });
}

int pi_cancel(pi_engine * engine, uint64_t run_first, uint64_t run_last) {
    return guarded(engine, [&] {
        engine->cancel(run_first, run_last);
        return PI_OK;
    });
}

int pi_serve(pi_engine * engine, int32_t timeout_ms, int32_t * exit_code) {
    return guarded(engine, [&] { return engine->serve(timeout_ms, *exit_code); });
}

int pi_report_failure(pi_engine * engine, const char * message) {
    return guarded(engine, [&] {
        engine->fail(message);
        return PI_OK;
    });
}

void pi_give_up(pi_engine * engine, const char * message) {
    guarded(engine, [&] {
        engine->give_up(message);
        return PI_OK;
    });
}

void pi_activity(pi_engine * engine, uint64_t values[4]) {
    engine->activity(values);
}

const char * pi_last_error(pi_engine * engine) {
    return engine->last_error.c_str();
}

int32_t pi_kv_positions(pi_engine * engine) {
    return engine->kv_positions();
}

void pi_engine_device_bytes(pi_engine * engine, pi_device_bytes * bytes) {
    *bytes = engine->device_bytes();
}

const float * pi_last_logits(pi_engine * engine) {
    return engine->last_logits();
}

void pi_engine_close(pi_engine * engine, int32_t exit_code) {
    if (!engine) {
        return;
    }
    guarded(engine, [&] {
        engine->stop(exit_code);
        return PI_OK;
    });
    end(engine);
}
