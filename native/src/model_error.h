#pragma once

#include <stdexcept>
#include <string>

// The model file cannot be used, whatever else is tried.
class model_error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Throws what llama.cpp's log says since it was reset, or else this text: as a model_error, unless memory has run out.
[[noreturn]] void throw_logged(const char * otherwise);
