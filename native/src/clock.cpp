#include "clock.h"

#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <chrono>

uint64_t now_us() {
    using namespace std::chrono;
    return uint64_t(duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count());
}

void wait_precisely() {
#ifdef PR_SET_TIMERSLACK
    prctl(PR_SET_TIMERSLACK, 1000UL); // ns
#endif
}
