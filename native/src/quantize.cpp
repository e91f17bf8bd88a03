// A GGUF written again: as another type, without some layers, with a note of its descent.

#include "pipeinfer.h"

#include "assertions.h"
#include "log.h"

#include "llama.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

static llama_model_kv_override note(const char * key, const char * text) {
    llama_model_kv_override override{};
    override.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
    snprintf(override.key, sizeof(override.key), "%s", key);
    snprintf(override.val_str, sizeof(override.val_str), "%s", text);
    return override;
}

static llama_model_kv_override zero(const char * key) {
    llama_model_kv_override override{};
    override.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
    snprintf(override.key, sizeof(override.key), "%s", key);
    return override;
}

static int fail(char * err, size_t err_size, const std::string & why) {
    snprintf(err, err_size, "%s", why.c_str());
    return PI_ERR_MODEL;
}

int pi_quantize(const char * source, const char * target, const struct pi_quantize_params * params, char * err,
                size_t err_size) {
    try {
        const llama_model_kv_override notes[] = {
            note("pipeinfer.derived.source", params->note_source),
            note("pipeinfer.derived.source_sha256", params->note_sha256),
            note("pipeinfer.derived.how", params->note_how),
            params->zero_key ? zero(params->zero_key) : llama_model_kv_override{},
            llama_model_kv_override{}, // the end
        };
        std::vector<int32_t> left_out(params->left_out, params->left_out + params->n_left_out);
        left_out.push_back(-1);

        llama_model_quantize_params quantize = llama_model_quantize_default_params();
        quantize.nthread                     = params->n_threads;
        quantize.only_copy                   = params->file_type < 0;
        quantize.allow_requantize            = true;
        quantize.kv_overrides                = notes;
        quantize.prune_layers                = params->n_left_out > 0 ? left_out.data() : nullptr;
        if (!quantize.only_copy) {
            quantize.ftype = llama_ftype(params->file_type);
        }

        const assertion_guard guard;
        log_reset_errors();
        if (llama_model_quantize(source, target, &quantize) != 0) {
            return fail(err, err_size, log_first_error());
        }
        return PI_OK;
    } catch (const std::exception & error) {
        return fail(err, err_size, error.what());
    }
}
