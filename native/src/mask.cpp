#include "mask.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

// A coded mask: its form, then lengths of runs of equal bits, the first of zeros, as variable-length numbers (7 bits a
// byte, the lowest first) that add up to its bits; or its words, where these are shorter.
enum mask_form : uint8_t {
    MASK_RUNS  = 0,
    MASK_WORDS = 1,
};

static constexpr size_t N_BITS = 32; // of a word

static size_t words_of(size_t n_vocab) {
    return (n_vocab + N_BITS - 1) / N_BITS;
}

size_t mask_max_size(size_t n_vocab) {
    return 1 + words_of(n_vocab) * sizeof(uint32_t);
}

static void put_number(uint32_t number, std::vector<uint8_t> & coded) {
    for (; number >= 0x80; number >>= 7) {
        coded.push_back(uint8_t(number) | 0x80);
    }
    coded.push_back(uint8_t(number));
}

void mask_encode(const uint32_t * words, size_t n_words, std::vector<uint8_t> & coded) {
    const size_t begin = coded.size();
    const size_t most  = begin + 1 + n_words * sizeof(uint32_t);
    coded.push_back(MASK_RUNS);

    bool     value  = false; // of the run's bits
    uint32_t length = 0;
    for (size_t i = 0; i < n_words && coded.size() < most; i++) {
        size_t bit = 0;
        while (bit < N_BITS) {
            // a one where the run ends; a shift by all of a word's bits is not defined, and not asked for
            const uint32_t ends = (value ? ~words[i] : words[i]) >> bit;
            const size_t   same = ends == 0 ? N_BITS - bit : size_t(__builtin_ctz(ends));
            length += uint32_t(same);
            bit += same;
            if (bit < N_BITS) {
                put_number(length, coded);
                value  = !value;
                length = 0;
            }
        }
    }
    put_number(length, coded);
    if (coded.size() > most) {
        coded.resize(most);
        coded[begin] = MASK_WORDS;
        memcpy(coded.data() + begin + 1, words, n_words * sizeof(uint32_t));
    }
}

namespace {

class reader {
  public:
    explicit reader(const std::vector<uint8_t> & coded) : at_(coded.data()), end_(at_ + coded.size()) {}

    bool is_over() const { return at_ == end_; }

    uint8_t byte() {
        if (is_over()) {
            throw std::runtime_error("a mask of allowed tokens is cut off");
        }
        return *at_++;
    }

    uint64_t number() {
        uint64_t result = 0;
        for (int shift = 0; shift < 63; shift += 7) {
            const uint8_t next = byte();
            result |= uint64_t(next & 0x7f) << shift;
            if (next < 0x80) {
                return result;
            }
        }
        throw std::runtime_error("a mask of allowed tokens is damaged");
    }

    void words(mask_words & words) {
        const size_t n_bytes = words.size() * sizeof(uint32_t);
        if (size_t(end_ - at_) < n_bytes) {
            throw std::runtime_error("a mask of allowed tokens is cut off");
        }
        memcpy(words.data(), at_, n_bytes);
        at_ += n_bytes;
    }

  private:
    const uint8_t *       at_;
    const uint8_t * const end_;
};

} // namespace

static void set_bits(mask_words & words, size_t first, size_t last) {
    while (first < last) {
        const size_t   bit   = first % N_BITS;
        const size_t   count = last - first < N_BITS - bit ? last - first : N_BITS - bit;
        const uint32_t ones  = count == N_BITS ? ~0u : (1u << count) - 1;
        words[first / N_BITS] |= ones << bit;
        first += count;
    }
}

static void read_runs(reader & from, mask_words & words) {
    const size_t n_bits = words.size() * N_BITS;
    bool         value  = false;
    for (size_t at = 0; at < n_bits; value = !value) {
        const uint64_t length = from.number();
        if (length > n_bits - at) {
            throw std::runtime_error("a mask of allowed tokens is for a larger vocabulary than the model's");
        }
        if (value) {
            set_bits(words, at, at + size_t(length));
        }
        at += size_t(length);
    }
}

std::vector<mask_words> masks_decode(const std::vector<uint8_t> & coded, int32_t n_vocab) {
    std::vector<mask_words> masks;
    reader                  from(coded);
    while (!from.is_over()) {
        mask_words & words = masks.emplace_back(words_of(size_t(n_vocab)));
        switch (from.byte()) {
            case MASK_RUNS:
                read_runs(from, words);
                break;
            case MASK_WORDS:
                from.words(words);
                break;
            default:
                throw std::runtime_error("a mask of allowed tokens is damaged");
        }
    }
    return masks;
}

const float * mask_apply(const uint32_t * words, const float * logits, int32_t n_vocab) {
    static thread_local std::vector<float> masked; // its memory stays, so that a call allocates nothing

    masked.resize(size_t(n_vocab));
    for (int32_t first = 0; first < n_vocab; first += int32_t(N_BITS)) {
        const uint32_t word = words[size_t(first) / N_BITS];
        const int32_t  last = n_vocab - first < int32_t(N_BITS) ? n_vocab : first + int32_t(N_BITS);
        for (int32_t i = first; i < last; i++) {
            masked[size_t(i)] = (word >> (i - first)) & 1 ? logits[i] : -INFINITY;
        }
    }
    return masked.data();
}

int32_t mask_first(const uint32_t * words, int32_t n_vocab) {
    for (int32_t token = 0; token < n_vocab; token++) {
        if (mask_allows(words, token)) {
            return token;
        }
    }
    return -1;
}
