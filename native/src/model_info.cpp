// What a GGUF says of itself, read from its header.

#include "pipeinfer.h"

#include "log.h"

#include "gguf.h"
#include "llama.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

struct gguf_deleter {
    void operator()(gguf_context * gguf) const { gguf_free(gguf); }
};

using gguf_ptr = std::unique_ptr<gguf_context, gguf_deleter>;

uint64_t file_size(const char * path) {
    struct stat status;
    if (stat(path, &status) != 0) {
        throw std::runtime_error(strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        throw std::runtime_error("not a regular file");
    }
    return uint64_t(status.st_size);
}

void check_magic(const char * path) {
    std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path, "rb"), fclose);
    if (!file) {
        throw std::runtime_error(strerror(errno));
    }
    char magic[4] = {};
    if (fread(magic, 1, sizeof(magic), file.get()) != sizeof(magic) || memcmp(magic, "GGUF", sizeof(magic)) != 0) {
        throw std::runtime_error("not a GGUF file (it does not begin with \"GGUF\")");
    }
}

gguf_ptr open_gguf(const char * path) {
    check_magic(path);
    log_reset_errors();
    gguf_ptr gguf(gguf_init_from_file(path, { /*.no_alloc =*/true, /*.ctx =*/nullptr }));
    if (!gguf) {
        throw std::runtime_error("the GGUF is damaged or incomplete: " + log_first_error());
    }
    return gguf;
}

std::string get_arch(const gguf_context * gguf) {
    const int64_t key = gguf_find_key(gguf, "general.architecture");
    if (key < 0 || gguf_get_kv_type(gguf, key) != GGUF_TYPE_STRING) {
        throw std::runtime_error("the GGUF has no general.architecture");
    }
    return gguf_get_val_str(gguf, key);
}

int32_t get_count(const gguf_context * gguf, const std::string & name) {
    const int64_t key = gguf_find_key(gguf, name.c_str());
    if (key < 0 || gguf_get_kv_type(gguf, key) != GGUF_TYPE_UINT32) {
        throw std::runtime_error("the GGUF has no " + name);
    }
    return int32_t(gguf_get_val_u32(gguf, key));
}

int32_t get_n_vocab(const gguf_context * gguf) {
    const int64_t key = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    if (key < 0 || gguf_get_kv_type(gguf, key) != GGUF_TYPE_ARRAY) {
        throw std::runtime_error("the GGUF has no vocabulary (tokenizer.ggml.tokens)");
    }
    return int32_t(gguf_get_arr_n(gguf, key));
}

// The bytes of each layer's tensors, and of those before and after the layers.
void count_bytes(const gguf_context * gguf, uint64_t n_file, pi_model_info & info, uint64_t * layer_bytes) {
    bool has_output = false;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); i++) {
        const std::string name = gguf_get_tensor_name(gguf, i);
        const uint64_t    size = gguf_get_tensor_size(gguf, i);
        const uint64_t    end  = gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i) + size;
        if (end > n_file) {
            throw std::runtime_error("the file is truncated: tensor " + name + " ends at byte " + std::to_string(end) +
                                     ", the file at " + std::to_string(n_file));
        }
        info.bytes_total += size;
        int layer = -1;
        if (sscanf(name.c_str(), "blk.%d.", &layer) == 1) {
            if (layer < 0 || layer >= info.n_layer) {
                throw std::runtime_error("tensor " + name + " is of a layer that the model does not have");
            }
            layer_bytes[layer] += size;
        } else if (name.rfind("output", 0) == 0) {
            info.bytes_output += size;
            has_output = has_output || name == "output.weight";
        } else {
            info.bytes_input += size;
        }
    }
    info.tied_output = !has_output;
}

} // namespace

int pi_model_info_read(const char * path, pi_model_info * info, uint64_t * layer_bytes, int32_t n_layer_max, char * err,
                       size_t err_size) {
    try {
        const uint64_t    n_file = file_size(path);
        const gguf_ptr    gguf   = open_gguf(path);
        const std::string arch   = get_arch(gguf.get());

        *info = {};
        snprintf(info->arch, sizeof(info->arch), "%s", arch.c_str());
        info->can_split   = llama_stage_supports_arch(arch.c_str());
        info->n_layer     = get_count(gguf.get(), arch + ".block_count");
        info->n_embd      = get_count(gguf.get(), arch + ".embedding_length");
        info->n_ctx_train = get_count(gguf.get(), arch + ".context_length");
        info->n_vocab     = get_n_vocab(gguf.get());
        if (info->n_layer < 1 || info->n_layer > n_layer_max) {
            throw std::runtime_error("the GGUF says that it has " + std::to_string(info->n_layer) + " layers");
        }
        memset(layer_bytes, 0, size_t(n_layer_max) * sizeof(*layer_bytes));
        count_bytes(gguf.get(), n_file, *info, layer_bytes);
        return PI_OK;
    } catch (const std::exception & error) {
        snprintf(err, err_size, "%s", error.what());
        return PI_ERR_MODEL;
    }
}
