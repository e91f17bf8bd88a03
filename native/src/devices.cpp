#include "devices.h"

#include <stdexcept>
#include <string>

std::vector<ggml_backend_dev_t> devices_find(const pi_devices & devices) {
    std::vector<ggml_backend_dev_t> found;
    for (int32_t i = 0; i < devices.n_names; i++) {
        ggml_backend_dev_t device = ggml_backend_dev_by_name(devices.names[i]);
        if (!device) {
            throw std::runtime_error("there is no device '" + std::string(devices.names[i]) + "'");
        }
        found.push_back(device);
    }
    found.push_back(nullptr);
    return found;
}
