#pragma once

#include <cstdint>

// The host's monotonic clock.
uint64_t now_us();

// Short waits of the calling thread end within microseconds of their time; the system's default is 50 us.
void wait_precisely();
