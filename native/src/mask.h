#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Which tokens may be drawn: a bit each, the lowest one of the first word for token 0. On their way through the stages
// masks are coded: mostly as lengths of runs of equal bits, of which a grammar's masks have few.
using mask_words = std::vector<uint32_t>;

// Puts a coded mask behind what is there.
void mask_encode(const uint32_t * words, size_t n_words, std::vector<uint8_t> & coded);

// The most bytes that the mask of a vocabulary takes.
size_t mask_max_size(size_t n_vocab);

// All masks. Throws std::runtime_error if the bytes are not whole masks for this vocabulary.
std::vector<mask_words> masks_decode(const std::vector<uint8_t> & coded, int32_t n_vocab);

// logits [n_vocab] as a draw under the mask sees them: -INFINITY where a token may not be drawn. The pointer is good until
// the thread's next call. The mask has a bit for each of the logits, and maybe more.
const float * mask_apply(const uint32_t * words, const float * logits, int32_t n_vocab);

inline bool mask_allows(const uint32_t * words, int32_t token) {
    return (words[token / 32] >> (token % 32)) & 1;
}

// The lowest token that may be drawn; -1 if there is none.
int32_t mask_first(const uint32_t * words, int32_t n_vocab);
