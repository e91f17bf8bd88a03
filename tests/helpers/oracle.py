"""The oracle: a GGUF decoded plainly by an unpatched llama.cpp, in one process, one token at a time
(the prompt too, unless n_batch says otherwise), with one thread (unless n_threads does), greedy or
with the noise of plain_sampling. Knows nothing of pipeinfer.

    LLAMA_CPP_LIB_PATH=build/reference/bin python tests/helpers/oracle.py REQUEST

REQUEST is JSON: {"model", "prompts": [[ids]] , "n_predict", "n_ctx", maybe "sample", "n_batch",
"n_threads", "cache_types" ([keys', values'] of enum ggml_type), "grammar" (llguidance's, which the
text follows to its first end), "adapters" ([[path, scale]] of LoRA adapters), "rope" (fields of
llama_context_params), "first_position" (of a prompt's first token: 0)}; prints as JSON, per prompt,
{"tokens": [ids], "logits": [sha256 of each position's logits, from the first prompt token on]}.
With "n_batch", the prompt is decoded in batches of that size.
Generation goes on at end-of-generation tokens.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys

import llama_cpp.llama_cpp as llama
import numpy as np

import plain_sampling

GREEDY = {"temperature": 0}
F16 = 1  # enum ggml_type


def main() -> None:
    request = json.loads(sys.argv[1])
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(
        os.fsencode(request["model"]), llama.llama_model_default_params()
    )
    assert model
    adapters = [
        (llama.llama_adapter_lora_init(model, os.fsencode(path)), scale)
        for path, scale in request.get("adapters", [])
    ]
    print(json.dumps([decode(model, adapters, prompt, request) for prompt in request["prompts"]]))


def decode(model, adapters, prompt, request):
    params = llama.llama_context_default_params()
    params.n_ctx = request["n_ctx"]
    params.n_threads = params.n_threads_batch = request.get("n_threads", 1)
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.type_k, params.type_v = request.get("cache_types", (F16, F16))
    for name, value in request.get("rope", {}).items():
        assert hasattr(params, name)
        setattr(params, name, value)
    context = llama.llama_init_from_model(model, params)
    if adapters:
        use_adapters(context, adapters)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    matcher = matcher_of(model, request.get("grammar"))
    tokens, hashes, fed = [], [], list(prompt)
    while len(tokens) < request["n_predict"]:
        part = fed[len(hashes) : len(hashes) + request.get("n_batch", 1)]
        decode_part(context, part, request.get("first_position", 0) + len(hashes))
        for i in range(len(part)):
            logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (n_vocab,))
            hashes.append(hashlib.sha256(logits.tobytes()).hexdigest())
        if len(hashes) == len(fed):
            params = request.get("sample", GREEDY)
            if matcher is not None:
                logits = np.where(allowed(matcher, n_vocab), logits, np.float32("-inf"))
            tokens.append(plain_sampling.sample(logits, len(fed), params))
            if matcher is not None:
                assert matcher.consume_token(tokens[-1])
                matcher = None if is_end(model, tokens[-1]) else matcher
            fed.append(tokens[-1])
    llama.llama_free(context)
    return {"tokens": tokens, "logits": hashes}


def is_end(model, token):
    return llama.llama_vocab_is_eog(llama.llama_model_get_vocab(model), token)


def matcher_of(model, grammar):
    """llguidance's own way to a vocabulary of llama.cpp."""
    if grammar is None:
        return None
    import llguidance
    from llguidance.llamacpp import lltokenizer_from_vocab

    vocab = llama.llama_model_get_vocab(model)
    ends = [i for i in range(llama.llama_vocab_n_tokens(vocab)) if is_end(model, i)]
    return llguidance.LLMatcher(lltokenizer_from_vocab(vocab, eos_token=ends), grammar)


def allowed(matcher, n_vocab):
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(bits, bitorder="little")[:n_vocab].astype(bool)


def use_adapters(context, adapters):
    handles = (llama.llama_adapter_lora_p_ctypes * len(adapters))(*(each for each, _ in adapters))
    scales = (ctypes.c_float * len(adapters))(*(scale for _, scale in adapters))
    assert llama.llama_set_adapters_lora(context, handles, len(adapters), scales) == 0


def decode_part(context, ids, position):
    batch = llama.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position + i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert llama.llama_decode(context, batch) == 0
    llama.llama_batch_free(batch)


if __name__ == "__main__":
    main()
