#include "model_error.h"

#include "log.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

// Without the names of the steps that failed: "llama_model_load: error loading model: error loading model vocabulary: ".
static std::string without_steps(const std::string & line) {
    const size_t step = line.rfind("error loading model");
    const size_t end  = step == std::string::npos ? step : line.find(": ", step);
    return end == std::string::npos ? line : line.substr(end + 2);
}

// Not by "alloc" alone, which may be in the name of a file.
static bool is_out_of_memory(const std::string & why) {
    const std::string words[] = { "to allocate", "bad_alloc", strerror(ENOMEM) };
    return std::any_of(std::begin(words), std::end(words),
                       [&](const std::string & each) { return why.find(each) != std::string::npos; });
}

void throw_logged(const char * otherwise) {
    const std::string why = without_steps(log_first_error());
    if (is_out_of_memory(why)) {
        throw std::runtime_error(why);
    }
    throw model_error(why.empty() ? otherwise : why);
}
