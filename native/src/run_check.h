#pragma once

#include "pipeinfer.h"

// Which rule of pi_run, but for that of run ids, a run of at most n_batch tokens breaks; NULL if none.
const char * run_find_fault(const pi_run & run, int32_t n_batch, int32_t n_seq = PI_MAX_SEQ);
