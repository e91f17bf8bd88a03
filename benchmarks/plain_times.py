"""How long the llama.cpp of LLAMA_CPP_LIB_PATH takes for each of some tokens, one at a time.

stdin: {"model", "tokens": [ids]}; stdout: [ms]. One thread, flash attention, nothing of pipeinfer.
"""

import json
import os
import sys
import time

import llama_cpp.llama_cpp as llama


def main() -> None:
    request = json.load(sys.stdin)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(
        os.fsencode(request["model"]), llama.llama_model_default_params()
    )
    params = llama.llama_context_default_params()
    params.n_ctx = len(request["tokens"]) + 64
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama.llama_init_from_model(model, params)
    times = []
    for token in request["tokens"]:
        start = time.perf_counter()
        batch = llama.llama_batch_get_one((llama.llama_token * 1)(token), 1)
        assert llama.llama_decode(context, batch) == 0
        llama.llama_synchronize(context)
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
