#include "softmax.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// A vector of GCC and Clang, whatever the processor has. Four at a time, with results of their own: one would wait for
// the one before.
constexpr int32_t N_LANES = 4;
typedef float     lanes __attribute__((vector_size(N_LANES * sizeof(float))));
typedef int32_t   int_lanes __attribute__((vector_size(N_LANES * sizeof(int32_t))));

constexpr int32_t N_VECTORS = 4;
constexpr int32_t N_STEP    = N_VECTORS * N_LANES;

static inline lanes load(const float * values) {
    lanes loaded;
    memcpy(&loaded, values, sizeof(loaded));
    return loaded;
}

float values_max(const float * values, int32_t n) {
    float largest = -INFINITY;

    lanes best[N_VECTORS];
    for (lanes & each : best) {
        each = lanes{} - INFINITY;
    }

    int32_t i = 0;
    for (; i + N_STEP <= n; i += N_STEP) {
        for (int32_t j = 0; j < N_VECTORS; j++) {
            const lanes next = load(values + i + j * N_LANES);

            best[j] = next > best[j] ? next : best[j]; // never a NaN
        }
    }
    for (const lanes & each : best) {
        for (int32_t k = 0; k < N_LANES; k++) {
            largest = each[k] > largest ? each[k] : largest;
        }
    }
    for (; i < n; i++) {
        largest = values[i] > largest ? values[i] : largest;
    }
    return largest;
}

// e^x for x <= 0; nearly 0 for what is below -87, or no number.
static inline lanes exp_of_negative(lanes x) {
    x = x > -87.0f ? x : lanes{} - 87.0f;

    const lanes n    = (x * 1.44269504f + 0x1.8p23f) - 0x1.8p23f; // x / ln 2, rounded to whole numbers
    const lanes rest = (x - n * 0.693359375f) + n * 2.12194440e-4f; // x - n ln 2, with ln 2 in two parts

    // e^rest by its series, as rest is at most half of ln 2
    lanes sum = rest * (1.0f / 720) + 1.0f / 120;
    sum       = sum * rest + 1.0f / 24;
    sum       = sum * rest + 1.0f / 6;
    sum       = sum * rest + 1.0f / 2;
    sum       = sum * rest + 1.0f;
    sum       = sum * rest + 1.0f;

    const int_lanes bits = (__builtin_convertvector(n, int_lanes) + 127) << 23; // of 2^n
    lanes           scale;
    memcpy(&scale, &bits, sizeof(scale));
    return sum * scale;
}

double softmax_sum(const float * logits, int32_t n, float max_logit) {
    constexpr int32_t N_PART = 64 * N_STEP; // little enough for sums of floats

    double  sum = 0.0;
    int32_t i   = 0;
    while (i + N_STEP <= n) {
        const int32_t part_end = std::min(i + N_PART, n - N_STEP + 1);

        lanes parts[N_VECTORS] = {};
        for (; i < part_end; i += N_STEP) {
            for (int32_t j = 0; j < N_VECTORS; j++) {
                parts[j] += exp_of_negative(load(logits + i + j * N_LANES) - max_logit);
            }
        }
        for (const lanes & each : parts) {
            for (int32_t k = 0; k < N_LANES; k++) {
                sum += each[k];
            }
        }
    }
    for (; i < n; i++) {
        sum += std::isnan(logits[i]) ? 0.0f : std::exp(logits[i] - max_logit);
    }
    return sum;
}
