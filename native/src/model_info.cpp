// What a GGUF says of itself, read from its header.

#include "pipeinfer.h"

#include "assertions.h"
#include "log.h"

#include "ggml.h"
#include "gguf.h"
#include "llama-pipeline.h"

#include <sys/stat.h>

#include <cerrno>
#include <climits>
#include <cstdint>
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

int64_t find_key(const gguf_context * gguf, const std::string & name, gguf_type type) {
    const int64_t key = gguf_find_key(gguf, name.c_str());
    return key >= 0 && gguf_get_kv_type(gguf, key) == type ? key : -1;
}

std::string get_arch(const gguf_context * gguf) {
    const int64_t key = find_key(gguf, "general.architecture", GGUF_TYPE_STRING);
    if (key < 0) {
        throw std::runtime_error("the GGUF has no general.architecture");
    }
    return gguf_get_val_str(gguf, key);
}

// A count of the model's: more than fits 31 bits is damage.
int32_t get_count(const gguf_context * gguf, const std::string & name) {
    const int64_t key = find_key(gguf, name, GGUF_TYPE_UINT32);
    if (key < 0) {
        throw std::runtime_error("the GGUF has no " + name);
    }
    const uint32_t count = gguf_get_val_u32(gguf, key);
    if (count > uint32_t(INT32_MAX)) {
        throw std::runtime_error("the GGUF says that its " + name + " is " + std::to_string(count));
    }
    return int32_t(count);
}

// How many files the model comes in, or which of them this is; 0 if the file says nothing of it.
int32_t get_split(const gguf_context * gguf, const char * name) {
    const int64_t key = find_key(gguf, name, GGUF_TYPE_UINT16);
    return key < 0 ? 0 : gguf_get_val_u16(gguf, key);
}

int32_t get_n_vocab(const gguf_context * gguf) {
    const int64_t key = find_key(gguf, "tokenizer.ggml.tokens", GGUF_TYPE_ARRAY);
    if (key < 0) {
        throw std::runtime_error("the GGUF has no vocabulary (tokenizer.ggml.tokens)");
    }
    return int32_t(gguf_get_arr_n(gguf, key));
}

// Maps token ids to others, or to experts.
bool is_table(const std::string & name) {
    return name == "d2t" || name.find("tid2eid") != std::string::npos;
}

// Matrices of these types can be in a file, but there is no function that multiplies them.
void check_type(const gguf_context * gguf, int64_t tensor) {
    if (is_table(gguf_get_tensor_name(gguf, tensor))) {
        return;
    }
    switch (gguf_get_tensor_type(gguf, tensor)) {
        case GGML_TYPE_F64:
        case GGML_TYPE_I8:
        case GGML_TYPE_I16:
        case GGML_TYPE_I32:
        case GGML_TYPE_I64:
        case GGML_TYPE_Q8_1:
        case GGML_TYPE_Q8_K:
            throw std::runtime_error(std::string("tensor ") + gguf_get_tensor_name(gguf, tensor) + " has the type " +
                                     ggml_type_name(gguf_get_tensor_type(gguf, tensor)) +
                                     ", which llama.cpp cannot multiply (convert the model to another type)");
        default:
            return;
    }
}

// The bytes of each layer's tensors, and of those before and after the layers, are added to the counts.
void count_bytes(const gguf_context * gguf, uint64_t n_file, pi_model_info & info, uint64_t * layer_bytes) {
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); i++) {
        const std::string name = gguf_get_tensor_name(gguf, i);
        const uint64_t    size = gguf_get_tensor_size(gguf, i);
        const uint64_t    end  = gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i) + size;
        if (end > n_file) {
            throw std::runtime_error("the file is truncated: tensor " + name + " ends at byte " + std::to_string(end) +
                                     ", the file at " + std::to_string(n_file));
        }
        check_type(gguf, i);
        if (name == "position_embd.weight") {
            info.n_positions = info.n_ctx_train;
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
            info.tied_output = info.tied_output && name != "output.weight";
        } else {
            info.bytes_input += size;
        }
    }
}

// The path of another file of a model that comes in several; the first one's path tells.
std::string part_path(const std::string & first, int32_t part, int32_t n_parts) {
    char prefix[PATH_MAX] = {};
    char path[PATH_MAX]   = {};
    if (llama_split_prefix(prefix, sizeof(prefix), first.c_str(), 0, n_parts) <= 0) {
        throw std::runtime_error("the model comes in " + std::to_string(n_parts) +
                                 " files, and the name of the first must end in -00001-of-" +
                                 std::to_string(100000 + n_parts).substr(1) + ".gguf");
    }
    llama_split_path(path, sizeof(path), prefix, part, n_parts);
    return path;
}

void count_part(const std::string & path, int32_t part, int32_t n_parts, pi_model_info & info, uint64_t * layer_bytes) {
    const std::string what = "part " + std::to_string(part + 1) + " of " + std::to_string(n_parts);
    try {
        const uint64_t n_file = file_size(path.c_str());
        const gguf_ptr gguf   = open_gguf(path.c_str());
        if (get_split(gguf.get(), "split.no") != part || get_split(gguf.get(), "split.count") != n_parts) {
            throw std::runtime_error("it says that it is another part");
        }
        count_bytes(gguf.get(), n_file, info, layer_bytes);
    } catch (const std::exception & error) {
        throw std::runtime_error(what + " (" + path + "): " + error.what());
    }
}

// A shard says what the whole model has; its own tensors must be all those of its layers.
void take_shard(const gguf_context * gguf, pi_model_info & info, uint64_t * layer_bytes) {
    const int64_t key = find_key(gguf, "pipeinfer.shard.layer_bytes", GGUF_TYPE_ARRAY);
    if (key < 0) {
        return;
    }
    const int64_t input  = find_key(gguf, "pipeinfer.shard.bytes_input", GGUF_TYPE_UINT64);
    const int64_t output = find_key(gguf, "pipeinfer.shard.bytes_output", GGUF_TYPE_UINT64);
    const int64_t tied   = find_key(gguf, "pipeinfer.shard.tied_output", GGUF_TYPE_BOOL);
    if (gguf_get_arr_type(gguf, key) != GGUF_TYPE_UINT64 || gguf_get_arr_n(gguf, key) != size_t(info.n_layer) ||
        input < 0 || output < 0 || tied < 0) {
        throw std::runtime_error("what the GGUF says of the model that it is a shard of is damaged");
    }
    const uint64_t * whole = static_cast<const uint64_t *>(gguf_get_arr_data(gguf, key));
    for (int32_t i = 0; i < info.n_layer; i++) {
        if (layer_bytes[i] != 0 && layer_bytes[i] != whole[i]) {
            throw std::runtime_error("the shard lacks tensors of layer " + std::to_string(i));
        }
        layer_bytes[i] = whole[i];
    }
    info.bytes_input  = gguf_get_val_u64(gguf, input);
    info.bytes_output = gguf_get_val_u64(gguf, output);
    info.tied_output  = gguf_get_val_bool(gguf, tied);
    info.bytes_total  = info.bytes_input + info.bytes_output;
    for (int32_t i = 0; i < info.n_layer; i++) {
        info.bytes_total += layer_bytes[i];
    }
}

void read_info(const char * path, pi_model_info & info, uint64_t * layer_bytes, int32_t n_layer_max) {
    const uint64_t n_file  = file_size(path);
    const gguf_ptr gguf    = open_gguf(path);
    const int32_t  n_parts = get_split(gguf.get(), "split.count");
    const int32_t  part    = get_split(gguf.get(), "split.no");

    if (n_parts > 1 && part != 0) {
        throw std::runtime_error("it is part " + std::to_string(part + 1) + " of a model in " +
                                 std::to_string(n_parts) + " files: give the first one");
    }
    const std::string arch = get_arch(gguf.get());

    info = {};
    snprintf(info.arch, sizeof(info.arch), "%s", arch.c_str());
    info.can_split   = llama_stage_supports_arch(arch.c_str());
    info.n_layer     = get_count(gguf.get(), arch + ".block_count");
    info.n_embd      = get_count(gguf.get(), arch + ".embedding_length");
    info.n_ctx_train = get_count(gguf.get(), arch + ".context_length");
    info.n_vocab     = get_n_vocab(gguf.get());
    info.tied_output = 1;
    if (info.n_layer < 1 || info.n_layer > n_layer_max) {
        throw std::runtime_error("the GGUF says that it has " + std::to_string(info.n_layer) + " layers");
    }
    memset(layer_bytes, 0, size_t(n_layer_max) * sizeof(*layer_bytes));
    count_bytes(gguf.get(), n_file, info, layer_bytes);
    for (int32_t i = 1; i < n_parts; i++) {
        count_part(part_path(path, i, n_parts), i, n_parts, info, layer_bytes);
    }
    take_shard(gguf.get(), info, layer_bytes);
}

} // namespace

int pi_model_info_read(const char * path, pi_model_info * info, uint64_t * layer_bytes, int32_t n_layer_max, char * err,
                       size_t err_size) {
    try {
        const assertion_guard guard;
        read_info(path, *info, layer_bytes, n_layer_max);
        return PI_OK;
    } catch (const std::exception & error) {
        snprintf(err, err_size, "%s", error.what());
        return PI_ERR_MODEL;
    }
}

const char * pi_stage_arch(int32_t i) {
    return llama_stage_arch(i);
}

int pi_tensor_type(int32_t type, int32_t * n_elements, int32_t * n_bytes) {
    if (type < 0 || type >= GGML_TYPE_COUNT || ggml_blck_size(ggml_type(type)) == 0) {
        return PI_ERR_INVALID; // a number of a type that was given up
    }
    *n_elements = int32_t(ggml_blck_size(ggml_type(type)));
    *n_bytes    = int32_t(ggml_type_size(ggml_type(type)));
    return PI_OK;
}
