"""GGUFs with odd vocabularies, tokenizers, special tokens and chat templates; see odd_ggufs.py."""

from __future__ import annotations

import math

from raw_gguf import (
    ARRAY,
    BOOL,
    BYTE,
    CONTROL,
    FLOAT32,
    INT32,
    INT32_MAX,
    MERGES,
    N_BPE,
    NORMAL,
    TOKENS,
    TYPES,
    UNUSED,
    Cases,
    Fields,
    bpe,
    bpe_vocab,
    model,
    number,
    spm,
    spm_vocab,
    text,
    texts,
)


def changed(vocab: Fields, key: bytes, at: int, value) -> Fields:
    """The vocabulary with one element of an array changed."""
    *kind, elements = vocab[key]
    elements = [*elements]
    elements[at] = value
    return {**vocab, key: (*kind, elements)}


def vocabularies() -> Cases:
    for name, vocab in (("bpe", bpe_vocab()), ("spm", spm_vocab())):
        tokens = vocab[TOKENS][2]
        yield f"{name}-sound", model(vocab)
        yield f"{name}-equal-tokens", model(changed(vocab, TOKENS, -2, tokens[-1]))
        two_empty = changed(changed(vocab, TOKENS, -4, ""), TOKENS, -5, "")
        yield f"{name}-empty-tokens", model(two_empty)
        yield f"{name}-all-empty", model({**vocab, TOKENS: texts([""] * len(tokens))})
        yield f"{name}-token-with-nul", model(changed(vocab, TOKENS, -4, b"a\0b"))
        yield f"{name}-token-not-utf8", model(changed(vocab, TOKENS, -4, b"\xff\xfe\xc3"))
        yield f"{name}-long-token", model(changed(vocab, TOKENS, -4, "ab" * 50_000))
        yield f"{name}-token-of-controls", model(changed(vocab, TOKENS, -4, b"\x1b[31m\n\r\x07"))
        yield (
            f"{name}-numbers-for-tokens",
            model(vocab).having(tokenizer__ggml__tokens=(ARRAY, INT32, list(range(len(tokens))))),
        )
        yield f"{name}-text-for-tokens", model(vocab).having(tokenizer__ggml__tokens=text("abc"))
        yield f"{name}-no-list", model(vocab).having(tokenizer__ggml__tokens=())
        yield f"{name}-empty-list", model(vocab).having(tokenizer__ggml__tokens=texts([]))
        yield (
            f"{name}-fewer-than-rows",
            model(vocab).having(tokenizer__ggml__tokens=texts(tokens[:-3])),
        )
        yield (
            f"{name}-more-than-rows",
            model(vocab).having(tokenizer__ggml__tokens=texts([*tokens, "x1", "x2"])),
        )
        yield (
            f"{name}-types-too-short",
            model(vocab).having(tokenizer__ggml__token_type=(ARRAY, INT32, [NORMAL] * 3)),
        )
        yield (
            f"{name}-types-as-texts",
            model(vocab).having(tokenizer__ggml__token_type=texts(["a"] * len(tokens))),
        )
        for kind, value in (
            ("unknown", 77),
            ("control", CONTROL),
            ("byte", BYTE),
            ("unused", UNUSED),
        ):
            yield (
                f"{name}-types-{kind}",
                model(vocab).having(
                    tokenizer__ggml__token_type=(ARRAY, INT32, [value] * len(tokens))
                ),
            )
        yield f"{name}-no-types", model(vocab).having(tokenizer__ggml__token_type=())
        yield f"{name}-vocab-size-says-another", model(vocab).having(llama__vocab_size=number(7))
    yield "one-token", one_token
    yield "bpe-byte-token", model(changed(bpe_vocab(), TYPES, 65, BYTE))
    yield "spm-short-byte-token", model(changed(spm_vocab(), TOKENS, 40, "<0"))
    yield "spm-odd-byte-token", model(changed(spm_vocab(), TOKENS, 40, "<0xZZ>"))
    yield "spm-no-bytes", model(changed(spm_vocab(), TOKENS, 3 + ord("q"), "no q"))
    yield "spm-no-newline", model(changed(spm_vocab(), TOKENS, 3 + 10, "no newline"))
    yield "spm-no-scores", spm(tokenizer__ggml__scores=())
    yield "spm-scores-too-short", spm(tokenizer__ggml__scores=(ARRAY, FLOAT32, [1.0]))
    yield "spm-scores-as-doubles", spm(tokenizer__ggml__scores=(ARRAY, 12, [1.0] * 265))
    yield "spm-scores-nan", spm(tokenizer__ggml__scores=(ARRAY, FLOAT32, [math.nan] * 265))
    yield "no-merges", bpe(tokenizer__ggml__merges=())
    yield "empty-merges", bpe(tokenizer__ggml__merges=texts([]))
    yield "merges-as-numbers", bpe(tokenizer__ggml__merges=(ARRAY, INT32, [1, 2]))
    yield "merges-without-space", bpe(tokenizer__ggml__merges=texts(["he", "", " ", "h ", "a b c"]))
    yield "merges-not-in-vocabulary", bpe(tokenizer__ggml__merges=texts(["h e", "he l", "hel l"]))
    yield "merges-twice", bpe(tokenizer__ggml__merges=texts(["h e"] * 3))


def one_token() -> bytes:
    vocab = {**bpe_vocab(), TOKENS: texts(["a"]), TYPES: (ARRAY, INT32, [1]), MERGES: texts([])}
    return model(vocab).to_bytes()


def tokenizers() -> Cases:
    for name in (
        "nonsense",
        "",
        "none",
        "no_vocab",
        "bert",
        "t5",
        "rwkv",
        "plamo2",
        "hybriddna",
        "whitespace",
    ):
        yield f"bpe-as-{name or 'empty'}", bpe(tokenizer__ggml__model=text(name))
        yield f"spm-as-{name or 'empty'}", spm(tokenizer__ggml__model=text(name))
    yield "no-model", bpe(tokenizer__ggml__model=())
    yield "model-as-number", bpe(tokenizer__ggml__model=number(3))
    for name in ("gpt-4o", "tekken", "deepseek-v3", "kimi-k2", "gemma4", "whitespace", "superbpe"):
        yield f"pre-{name}", model(bpe_vocab(name))
    yield "no-pre", model(bpe_vocab(None))
    yield "pre-unknown", model(bpe_vocab("of another time"))
    yield "pre-as-number", bpe(tokenizer__ggml__pre=number(1))
    t5 = {**spm_vocab("t5")}
    for name, value in (
        ("short", (ARRAY, 1, [1, 2])),
        ("size-beyond-end", (ARRAY, 0, [255, 255, 0, 0, 1, 2, 3, 4])),
        ("of-words", texts(["a"])),
        ("random", (ARRAY, 0, [16, 0, 0, 0, *([200, 7, 31, 128] * 4), 65, 0, 200, 201])),
        ("as-text", text("abc")),
    ):
        yield f"t5-charsmap-{name}", model(t5).having(tokenizer__ggml__precompiled_charsmap=value)
    for key in ("add_space_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        yield f"{key}-true", spm(**{f"tokenizer__ggml__{key}": (BOOL, True)})
        yield f"{key}-as-text", spm(**{f"tokenizer__ggml__{key}": text("yes")})
    yield "suppress-tokens-as-text", bpe(tokenizer__ggml__suppress_tokens=text("a"))
    yield (
        "suppress-tokens-beyond",
        bpe(tokenizer__ggml__suppress_tokens=(ARRAY, INT32, [-1, INT32_MAX])),
    )
    yield "token-type-count-huge", bpe(tokenizer__ggml__token_type_count=number(INT32_MAX))


def special_tokens() -> Cases:
    names = (
        "bos",
        "eos",
        "eot",
        "eom",
        "unknown",
        "seperator",
        "padding",
        "mask",
        "fim_pre",
        "cls",
    )
    for name in names:
        key = f"tokenizer__ggml__{name}_token_id"
        yield f"{name}-beyond", bpe(**{key: number(N_BPE + 5)})
        yield f"{name}-as-text", bpe(**{key: text("<s>")})
        yield f"{name}-negative", spm(**{key: (INT32, -7)})
    for flag in ("add_bos_token", "add_eos_token", "add_sep_token"):
        key = f"tokenizer__ggml__{flag}"
        nobody = {"tokenizer__ggml__bos_token_id": (), "tokenizer__ggml__eos_token_id": ()}
        yield (
            f"{flag}-without-one",
            model(
                {**bpe_vocab(), TOKENS: texts([*"abcdefgh lo"]), TYPES: (ARRAY, INT32, [1] * 11)}
            ).having(**{key: (BOOL, True), **nobody}),
        )
        yield f"{flag}-spm", spm(**{key: (BOOL, True)})
        yield f"{flag}-as-number", bpe(**{key: number(1)})
    yield (
        "all-of-them-one",
        bpe(**{f"tokenizer__ggml__{name}_token_id": number(3) for name in names}),
    )
    yield "eog-ids-beyond", bpe(tokenizer__ggml__eog_token_ids=(ARRAY, INT32, [-1, INT32_MAX]))
    yield "eog-ids-as-text", bpe(tokenizer__ggml__eog_token_ids=text("a"))


def templates() -> Cases:
    for name, value in (
        ("empty", text("")),
        ("blank", text(" \n")),
        ("not-utf8", text(b"{{ '\xff' }}{{ messages[0].content }}")),
        ("not-jinja", text("{% for")),
        ("as-number", number(1)),
        ("with-nul", text(b"{{ messages[0].content }}\0{{ nothing.at.all }}")),
        ("endless", text("{% for i in range(10**12) %}a{% endfor %}")),
        ("deep", text("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}")),
    ):
        yield name, bpe(tokenizer__chat_template=value)
