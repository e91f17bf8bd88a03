#pragma once

#include <cstdint>

// Loops over the logits of a vocabulary, several at a time.

// The largest of n values, -INFINITY if there is none. A NaN counts as less than all.
float values_max(const float * values, int32_t n);

// The sum of e^(logit - max_logit), to a millionth of it. Logits that are not numbers add nothing.
double softmax_sum(const float * logits, int32_t n, float max_logit);
