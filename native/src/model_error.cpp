#include "model_error.h"

#include "log.h"

// Without the names of the steps that failed: "llama_model_load: error loading model: error loading model vocabulary: ".
static std::string without_steps(const std::string & line) {
    const size_t step = line.rfind("error loading model");
    const size_t end  = step == std::string::npos ? step : line.find(": ", step);
    return end == std::string::npos ? line : line.substr(end + 2);
}

void throw_logged(const char * otherwise) {
    const std::string why = without_steps(log_first_error());
    if (why.find("alloc") != std::string::npos) { // "failed to allocate ..." and the like
        throw std::runtime_error(why);
    }
    throw model_error(why.empty() ? otherwise : why);
}
