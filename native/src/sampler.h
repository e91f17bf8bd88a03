#pragma once

#include "pipeinfer.h"

// The token to stand at `position`, from the logits [n_vocab] of the one before it. Greedy at temperature 0: the largest
// logit, the lowest id first on ties. Otherwise an ordinary draw after top-k, top-p and min-p, made by adding Gumbel noise
// that is a pure function of (seed, position, token id) to logits/temperature: whoever draws for this position from
// nearly the same logits gets, most of the time, the same token.
// Source: Gumbel-max trick; coupling by common noise: Daliri, Musco, Suresh, "Coupling without Communication and
// Drafter-Invariant Speculative Decoding" (2024).
//
// With a mask of allowed tokens (see pi_run) nothing else is drawn; the lowest of them if none of their logits is a number.
// Throws std::runtime_error if there are none.
int32_t token_sample(const float * logits, int32_t n_vocab, int32_t position, const pi_sample_params & params,
                     const uint32_t * mask = nullptr);

// The best n_max (at most PI_MAX_TOP) tokens in the order of that draw, the first one the drawn token; their number, from 1
// on: filters may leave fewer.
int32_t token_sample_top(const float * logits, int32_t n_vocab, int32_t position, const pi_sample_params & params,
                         int32_t n_max, int32_t * tokens);

// Softmax probabilities of n tokens over the whole vocabulary at temperature 1, without filters.
void token_probabilities(const float * logits, int32_t n_vocab, const int32_t * tokens, int32_t n,
                         float * probabilities);
