#include "vocab.h"

#include "assertions.h"
#include "large_stack.h"
#include "log.h"
#include "model_error.h"

#include "gguf.h"
#include "llama.h"

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <unordered_map>

// llama.cpp's regular expressions recurse for every character of a word: tests/native/test_vocab.py shows that this is
// enough for all its kinds of pre-tokenizers.
static constexpr size_t STACK_BYTES    = 1 << 20;
static constexpr size_t STACK_PER_BYTE = 2048; // of the text; 321 were measured
static constexpr char   TOKENS_KEY[]   = "tokenizer.ggml.tokens";

void pi_vocab::model_deleter::operator()(llama_model * model) const {
    llama_model_free(model);
}

// llama.cpp only says that there are equal texts, not which; empty if there are none.
static std::string equal_tokens(const char * path) {
    const std::unique_ptr<gguf_context, decltype(&gguf_free)> gguf(
        gguf_init_from_file(path, { /*.no_alloc =*/true, /*.ctx =*/nullptr }), gguf_free);
    const int64_t key = gguf ? gguf_find_key(gguf.get(), TOKENS_KEY) : -1;
    if (key < 0 || gguf_get_kv_type(gguf.get(), key) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf.get(), key) != GGUF_TYPE_STRING) {
        return "";
    }
    std::unordered_map<std::string, size_t> ids;
    for (size_t id = 0; id < gguf_get_arr_n(gguf.get(), key); id++) {
        const std::string text           = gguf_get_arr_str(gguf.get(), key, id);
        const auto [other, is_the_first] = ids.emplace(text, id);
        if (!is_the_first && !text.empty()) {
            return "its tokens " + std::to_string(other->second) + " and " + std::to_string(id) +
                   " have the same text '" + text + "'";
        }
    }
    return "";
}

pi_vocab::pi_vocab(const char * path) {
    llama_model_params params = llama_model_default_params();
    params.vocab_only         = true;

    const assertion_guard guard; // for the second look at the file, too
    log_reset_errors();
    model_.reset(llama_model_load_from_file(path, params));
    if (!model_) {
        const std::string why = equal_tokens(path);
        if (!why.empty()) {
            throw model_error(why);
        }
        throw_logged("llama.cpp could not read it");
    }
}

std::vector<int32_t> pi_vocab::tokenize(const std::string & text) const {
    if (text.size() > size_t(INT_MAX)) {
        throw std::runtime_error("a text of more than 2 GB");
    }
    const llama_vocab *  vocab = llama_model_get_vocab(model_.get());
    std::vector<int32_t> tokens(text.size() + 8); // mostly enough; a vocabulary without a space spells it in bytes

    const auto call = [&] {
        const assertion_guard guard;
        const auto            into = [&] {
            return llama_tokenize(vocab, text.data(), int32_t(text.size()), tokens.data(), int32_t(tokens.size()),
                                  /*add_special*/ false, /*parse_special*/ true);
        };
        int32_t n = into();
        if (n < 0) {
            tokens.resize(size_t(-int64_t(n)));
            n = into();
        }
        if (n < 0) {
            throw std::runtime_error("llama_tokenize returned " + std::to_string(n));
        }
        tokens.resize(size_t(n));
    };
    try {
        on_large_stack(STACK_BYTES + STACK_PER_BYTE * text.size(), call);
    } catch (const std::out_of_range &) { // llama.cpp's own, of a byte without a token
        throw std::runtime_error("the vocabulary has no token for a part of it");
    }
    const int32_t n_known = llama_vocab_n_tokens(vocab);
    if (!std::all_of(tokens.begin(), tokens.end(), [&](int32_t token) { return token >= 0 && token < n_known; })) {
        throw std::runtime_error("the vocabulary has no token for a part of it");
    }
    return tokens;
}
