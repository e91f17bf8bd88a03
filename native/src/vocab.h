#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct llama_model;

// The vocabulary of a GGUF, loaded without its tensors.
struct pi_vocab {
  public:
    // Throws std::runtime_error.
    explicit pi_vocab(const char * path);

    // The text's tokens; those that the vocabulary spells as control tokens are recognised, none is added. Throws
    // std::runtime_error.
    std::vector<int32_t> tokenize(const std::string & text) const;

    const llama_model * model() const { return model_.get(); }

  private:
    struct model_deleter {
        void operator()(llama_model * model) const;
    };

    std::unique_ptr<llama_model, model_deleter> model_;
};
