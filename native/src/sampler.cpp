#include "sampler.h"

#include "mask.h"
#include "softmax.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
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

struct scored {
    double  score;
    int32_t id;

    bool is_better_than(const scored & other) const {
        return score != other.score ? score > other.score : id < other.id;
    }
};

// The best of the tokens that are offered, the best first, at most n_max of them. A score that is -INFINITY, or no number,
// is none.
class best_tokens {
  public:
    explicit best_tokens(int32_t n_max) : n_max_(n_max) {}

    // A token whose id is larger than all before must have a larger score than this.
    double threshold() const { return n_ < n_max_ ? -INFINITY : best_[n_ - 1].score; }

    void offer(const scored & token) {
        if (!(token.score > -INFINITY) || (n_ == n_max_ && !token.is_better_than(best_[n_ - 1]))) {
            return;
        }
        int32_t at = n_ < n_max_ ? n_++ : n_ - 1;
        for (; at > 0 && token.is_better_than(best_[at - 1]); at--) {
            best_[at] = best_[at - 1];
        }
        best_[at] = token;
    }

    // The number of tokens, of which there is at least one: `otherwise` if none has a score.
    int32_t take(int32_t * tokens, int32_t otherwise) const {
        tokens[0] = otherwise;
        for (int32_t i = 0; i < n_; i++) {
            tokens[i] = best_[i].id;
        }
        return std::max(n_, 1);
    }

  private:
    const int32_t                  n_max_;
    int32_t                        n_ = 0;
    std::array<scored, PI_MAX_TOP> best_;
};

static int32_t greedy_top(const float * logits, int32_t n_vocab, int32_t n_max, int32_t * tokens) {
    constexpr int32_t N_BLOCK = 64; // mostly, one comparison is enough for a block

    best_tokens best(n_max);
    for (int32_t first = 0; first < n_vocab; first += N_BLOCK) {
        const int32_t n = std::min(N_BLOCK, n_vocab - first);
        if (values_max(logits + first, n) > best.threshold()) {
            for (int32_t id = first; id < first + n; id++) {
                best.offer({ logits[id], id });
            }
        }
    }
    return best.take(tokens, 0);
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

static int32_t draw_top(const std::vector<candidate> & kept, int32_t position, const pi_sample_params & params,
                        int32_t n_max, int32_t * tokens) {
    // every position has a generator of its own, and every token id a place in its output
    const uint64_t state = splitmix64(mix64(params.seed), uint32_t(position));

    best_tokens best(n_max);
    for (const candidate & each : kept) {
        const double noise = gumbel(splitmix64(state, uint32_t(each.id)));
        best.offer({ double(each.logit) / params.temperature + noise, each.id });
    }
    return best.take(tokens, kept.front().id);
}

int32_t token_sample_top(const float * logits, int32_t n_vocab, int32_t position, const pi_sample_params & params,
                         int32_t n_max, int32_t * tokens) {
    if (!(params.temperature > 0.0f)) {
        return greedy_top(logits, n_vocab, n_max, tokens);
    }
    static thread_local std::vector<candidate> kept; // its memory stays, so that a call allocates nothing

    gather_top_k(logits, n_vocab, params.top_k, kept);
    filter(kept, params);
    return draw_top(kept, position, params, n_max, tokens);
}

int32_t token_sample(const float * logits, int32_t n_vocab, int32_t position, const pi_sample_params & params,
                     const uint32_t * mask) {
    int32_t token;
    token_sample_top(mask ? mask_apply(mask, logits, n_vocab) : logits, n_vocab, position, params, 1, &token);
    if (mask && !mask_allows(mask, token)) {
        token = mask_first(mask, n_vocab);
        if (token < 0) {
            throw std::runtime_error("the grammar allows no token of the vocabulary at position " +
                                     std::to_string(position));
        }
    }
    return token;
}

void token_probabilities(const float * logits, int32_t n_vocab, const int32_t * tokens, int32_t n,
                         float * probabilities) {
    const float  max_logit = values_max(logits, n_vocab);
    const double sum       = softmax_sum(logits, n_vocab, max_logit);
    for (int32_t i = 0; i < n; i++) {
        probabilities[i] = float(std::exp(double(logits[tokens[i]]) - max_logit) / sum);
    }
}
