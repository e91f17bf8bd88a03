#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

struct candidate {
    float   logit;
    int32_t id;
};

// More likely ones first, the lowest id first on ties.
static bool comes_before(const candidate & a, const candidate & b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

static bool comes_after(const candidate & a, const candidate & b) {
    return comes_before(b, a);
}

static int32_t argmax(const float * logits, int32_t n_vocab) {
    int32_t best = 0;
    for (int32_t i = 1; i < n_vocab; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

//
// filters: llama.cpp's, in its order and with its definitions
//

// The k largest logits, in any order; k <= 0: all.
static void gather_top_k(const float * logits, int32_t n_vocab, int32_t k, std::vector<candidate> & kept) {
    const int32_t n_first = k > 0 ? std::min(k, n_vocab) : n_vocab;
    kept.clear();
    for (int32_t id = 0; id < n_first; id++) {
        kept.push_back({ std::isnan(logits[id]) ? -INFINITY : logits[id], id }); // a NaN has no place in an order
    }
    if (n_first == n_vocab) {
        return;
    }
    // a heap with the least likely one in front: nearly all other tokens end at the comparison with it
    std::make_heap(kept.begin(), kept.end(), comes_before);
    for (int32_t id = n_first; id < n_vocab; id++) {
        if (logits[id] > kept.front().logit) {
            std::pop_heap(kept.begin(), kept.end(), comes_before);
            kept.back() = { logits[id], id };
            std::push_heap(kept.begin(), kept.end(), comes_before);
        }
    }
}

// The most likely ones, as few as it takes for their weights exp(logit - max_logit) to add up to `enough`; at least one.
static void keep_top_p(std::vector<candidate> & kept, float max_logit, double enough) {
    double sum  = 0.0;
    auto   rest = kept.end();
    std::make_heap(kept.begin(), kept.end(), comes_after);
    do {
        std::pop_heap(kept.begin(), rest, comes_after);
        rest--;
        sum += std::exp(double(rest->logit) - max_logit);
    } while (sum < enough && rest != kept.begin());
    kept.erase(kept.begin(), rest);
}

// What is at least min_p times as likely as the most likely one.
static void keep_min_p(std::vector<candidate> & kept, float max_logit, float min_p) {
    const float min_logit = max_logit + std::log(min_p);
    const auto  is_less   = [&](const candidate & each) { return each.logit < min_logit; };
    kept.erase(std::remove_if(kept.begin(), kept.end(), is_less), kept.end());
}

static void filter(std::vector<candidate> & kept, const pi_sample_params & params) {
    const float max_logit = std::min_element(kept.begin(), kept.end(), comes_before)->logit;

    double enough = 0.0;
    if (params.top_p < 1.0f) {
        for (const candidate & each : kept) {
            enough += params.top_p * std::exp(double(each.logit) - max_logit);
        }
    }
    // Each of the two keeps the front of the same order, so that the shorter one counts, whichever comes first.
    // The cheaper one does: it leaves little to put in order.
    if (params.min_p > 0.0f) {
        keep_min_p(kept, max_logit, params.min_p);
    }
    if (params.top_p < 1.0f) {
        keep_top_p(kept, max_logit, enough);
    }
}

//
// noise
//

// SplitMix64: its finaliser, and output number `index` (from 0) of the generator whose state starts at `state`.
// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014), with Stafford's variant 13.
static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint64_t splitmix64(uint64_t state, uint32_t index) {
    return mix64(state + (uint64_t(index) + 1) * 0x9e3779b97f4a7c15);
}

// From 52 bits and a half, so that the uniform number is exact and never 0 or 1.
static double gumbel(uint64_t bits) {
    const double uniform = (double(bits >> 12) + 0.5) * 0x1p-52;
    return -std::log(-std::log(uniform));
}

static int32_t draw(const std::vector<candidate> & kept, int32_t position, const pi_sample_params & params) {
    // every position has a generator of its own, and every token id a place in its output
    const uint64_t state = splitmix64(mix64(params.seed), uint32_t(position));

    int32_t best_id    = kept.front().id;
    double  best_score = -INFINITY;
    for (const candidate & each : kept) {
        const double score = double(each.logit) / params.temperature + gumbel(splitmix64(state, uint32_t(each.id)));
        if (score > best_score || (score == best_score && each.id < best_id)) {
            best_score = score;
            best_id    = each.id;
        }
    }
    return best_id;
}

int32_t token_sample(const float * logits, int32_t n_vocab, int32_t position, const pi_sample_params & params) {
    if (!(params.temperature > 0.0f)) {
        return argmax(logits, n_vocab);
    }
    static thread_local std::vector<candidate> kept; // its memory stays, so that a call allocates nothing

    gather_top_k(logits, n_vocab, params.top_k, kept);
    filter(kept, params);
    return draw(kept, position, params);
}

float token_probability(const float * logits, int32_t n_vocab, int32_t token) {
    const float max_logit = logits[argmax(logits, n_vocab)];

    double sum = 0.0;
    for (int32_t id = 0; id < n_vocab; id++) {
        sum += std::exp(logits[id] - max_logit);
    }
    return float(std::exp(logits[token] - max_logit) / sum);
}
