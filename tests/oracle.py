"""The oracle: a GGUF decoded plainly by an unpatched llama.cpp, in one process, with one thread,
one token at a time (the prompt too), greedy or with the noise of plain_sampling. Knows nothing of
pipeinfer.

    LLAMA_CPP_LIB_PATH=build/reference/bin python tests/oracle.py REQUEST

REQUEST is JSON: {"model", "prompts": [[ids]] , "n_predict", "n_ctx", maybe "sample"}; prints as
JSON, per prompt, {"tokens": [ids], "logits": [sha256 of each position's logits, from the first
prompt token on]}.
Generation goes on at end-of-generation tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

import llama_cpp.llama_cpp as llama
import numpy as np

import plain_sampling

GREEDY = {"temperature": 0}


def main() -> None:
    request = json.loads(sys.argv[1])
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(
        os.fsencode(request["model"]), llama.llama_model_default_params()
    )
    assert model
    print(json.dumps([decode(model, prompt, request) for prompt in request["prompts"]]))


def decode(model, prompt, request):
    params = llama.llama_context_default_params()
    params.n_ctx = request["n_ctx"]
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama.llama_init_from_model(model, params)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    tokens, hashes, fed = [], [], list(prompt)
    while len(tokens) < request["n_predict"]:
        token = (llama.llama_token * 1)(fed[len(hashes)])
        assert llama.llama_decode(context, llama.llama_batch_get_one(token, 1)) == 0
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (n_vocab,))
        hashes.append(hashlib.sha256(logits.tobytes()).hexdigest())
        if len(hashes) == len(fed):
            params = request.get("sample", GREEDY)
            tokens.append(plain_sampling.sample(logits, len(fed), params))
            fed.append(tokens[-1])
    llama.llama_free(context)
    return {"tokens": tokens, "logits": hashes}


if __name__ == "__main__":
    main()
