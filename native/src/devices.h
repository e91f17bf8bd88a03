#pragma once

#include "pipeinfer.h"

#include "ggml-backend.h"

#include <cstdint>
#include <vector>

// The devices that a model's layers go to, as llama.cpp takes them: a list that ends with a null pointer. Without devices
// all is computed on the CPU, whatever backends the process has loaded. Throws std::runtime_error if there is none of a name.
std::vector<ggml_backend_dev_t> devices_find(const pi_devices & devices);
