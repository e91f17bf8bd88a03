"""Vocabularies of every kind: no text ends the process; what is added to it, and what is noted."""

import contextlib
import re

import pytest

import raw_gguf
from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.transcript import whole_prompt
from pipeinfer_cli.commands.generate_config import Prompt
from pipeinfer_cli.engine.vocab import MAX_WORD_CHARS, Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.vocabulary import PlainPrompts, load_vocab

MODEL = {"model": "x.gguf", "prompt": Prompt()}
pytestmark = pytest.mark.native

# One of each set of regular expressions in llama.cpp.
PRE_TOKENIZERS = re.findall(
    r"\S+",
    "gpt-4o tekken deepseek-v3 deepseek-llm deepseek-coder llama-bpe gpt-2 default falcon qwen35 "
    "kimi-k2 superbpe exaone-moe bloom chameleon granite-embed-multi-97m tiny_aya minicpm5 "
    "whitespace",
)
# What expressions may match in one piece; 27,000 are too many for a stack of 8 MB.
WORDS = ("a", "A", "aA", "é", "一", "\u0301", "7", "!", "#/", " ", "\n", "\r\n", "a ", "🌸", "'s")
N_CHARS = 32_000
SLOW = {"superbpe": "7"}  # takes the square of the time


def write(tmp_path, vocab=None, **fields):
    gguf = raw_gguf.model(vocab or raw_gguf.bpe_vocab()).having(**fields)
    return gguf.write(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_no_word_is_too_long_for_the_stack(pre, tmp_path):
    vocab = Vocab(write(tmp_path, raw_gguf.bpe_vocab(pre)))
    for word in [each for each in WORDS if each not in SLOW.get(pre, "")]:
        text = word * (N_CHARS // len(word))
        if pre == "whitespace":  # it leaves bytes as they are, of which ours has not all
            with contextlib.suppress(UserError):
                vocab.tokenize(text)
        else:
            tokens = vocab.tokenize(text)
            assert b"".join(map(vocab.piece, tokens)).decode() == text


def test_a_word_that_would_take_too_much_memory_is_refused(tmp_path):
    vocab = Vocab(write(tmp_path, raw_gguf.bpe_vocab("gpt-4o")))
    words = "a" * MAX_WORD_CHARS
    assert len(vocab.tokenize(f"{words} {words}")) > 2
    with pytest.raises(UserError, match=r"has 250001 characters .* at most 250000 .* divide"):
        vocab.tokenize(f"b {words}a")


def test_a_text_that_the_vocabulary_cannot_spell_is_refused(tmp_path):
    spm = raw_gguf.spm_vocab()
    spm[raw_gguf.TOKENS][2][3 + ord("q")] = "another"
    vocab = Vocab(write(tmp_path, spm))
    assert vocab.tokenize("hello")
    with pytest.raises(UserError, match=r"cannot tokenize a text of 1 bytes: .* no token for"):
        vocab.tokenize("q")


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_plain_prompt_may_begin_with_bos_and_never_ends_with_more(kind, adds_bos, tmp_path):
    ends = {f"tokenizer__ggml__add_{name}_token": (raw_gguf.BOOL, True) for name in ("eos", "sep")}
    path = write(
        tmp_path,
        getattr(raw_gguf, f"{kind}_vocab")(),
        tokenizer__ggml__add_bos_token=(raw_gguf.BOOL, adds_bos),
        tokenizer__ggml__seperator_token_id=raw_gguf.number(5),
        **ends,
    )
    vocab = Vocab(path)
    plain = vocab.tokenize("hello", is_whole=False)
    assert b"".join(map(vocab.piece, plain)).strip() == b"hello"
    bos = [vocab.bos] if adds_bos else []
    assert PlainPrompts(vocab).tokens("hello") == [*bos, *plain]  # generate, batch and bench
    assert whole_prompt(vocab, "hello") == [*bos, *plain]  # chat


def test_a_model_that_wants_bos_and_has_none(tmp_path):
    letters = [*"abcdefgh lo"]
    vocab = {
        **raw_gguf.bpe_vocab(),
        raw_gguf.TOKENS: raw_gguf.texts(letters),
        raw_gguf.TYPES: (raw_gguf.ARRAY, raw_gguf.INT32, [1] * len(letters)),
    }
    path = write(
        tmp_path,
        vocab,
        tokenizer__ggml__add_bos_token=(raw_gguf.BOOL, True),
        tokenizer__ggml__bos_token_id=(),
    )
    assert PlainPrompts(Vocab(path)).tokens("hello") == [letters.index(each) for each in "hello"]


def test_a_second_bos_is_noted_once(tmp_path, capsys):
    path = write(tmp_path, tokenizer__ggml__add_bos_token=(raw_gguf.BOOL, True))
    vocab = Vocab(path)
    prompts = PlainPrompts(vocab)
    for _ in range(2):
        assert prompts.tokens("<|end|>hello")[:2] == [vocab.bos] * 2
    assert whole_prompt(vocab, "<|end|>hello").count(vocab.bos) == 1
    assert capsys.readouterr().err.count("begins with two BOS tokens") == 1


@pytest.mark.parametrize("add", [True, False])
def test_a_space_is_put_before_the_first_word_where_the_gguf_says_so(add, tmp_path):
    path = write(
        tmp_path, raw_gguf.spm_vocab(), tokenizer__ggml__add_space_prefix=(raw_gguf.BOOL, add)
    )
    vocab = Vocab(path)
    for tokens in (PlainPrompts(vocab).tokens("hello"), whole_prompt(vocab, "hello")):
        assert b"".join(map(vocab.piece, tokens)) == (b" hello" if add else b"hello")


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        (
            {"tokenizer__ggml__pre": ()},
            r"tiny.gguf': it does not say how .* \(tokenizer.ggml.pre\)",
        ),
        (
            {"tokenizer__ggml__eos_token_id": raw_gguf.number(9999)},
            "warns: bad special token: .*eos",
        ),
        ({}, None),
    ],
)
def test_what_llama_cpp_warns_of_is_noted(fields, note, tmp_path, capsys):
    load_vocab(write(tmp_path, **fields), verbose=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (note is not None)
    assert all(line.startswith("pipeinfer: note: ") and re.search(note, line) for line in lines)


def test_warnings_of_one_kind_are_one_note(tmp_path, capsys):
    vocab = raw_gguf.bpe_vocab()
    for token in (20, 21, 22):
        vocab[raw_gguf.TOKENS][2][token] = ""
    load_vocab(write(tmp_path, vocab), verbose=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("llama.cpp warns: empty token at index 20 (and 2 more of this kind)")


def test_templates_find_the_special_tokens_that_the_gguf_names(tmp_path):
    source = (
        "{{ bos_token }}{{ unk_token }}{{ pad_token }}{{ mask_token }}"
        "{% if documents is none and tools is none and cls_token is not defined %}!{% endif %}"
    )
    path = write(
        tmp_path,
        tokenizer__chat_template=raw_gguf.text(source),
        tokenizer__ggml__padding_token_id=raw_gguf.number(raw_gguf.N_BPE - 1),
        tokenizer__ggml__unknown_token_id=raw_gguf.number(ord("?") - 33 + 33),
        tokenizer__ggml__mask_token_id=raw_gguf.number(9999),  # there is none
    )
    template = ChatTemplate.of(Vocab(path), "tiny", system=None)
    assert template.text([{"role": "user", "content": "x"}]) == "<|end|>?<|pad|>!"


@pytest.mark.parametrize("source", ["", " \n"])
def test_an_empty_chat_template_is_none(source, tmp_path):
    path = write(tmp_path, tokenizer__chat_template=raw_gguf.text(source))
    with pytest.raises(UserError, match="has no chat template"):
        ChatTemplate.of(Vocab(path), "tiny", system=None)


def test_a_model_without_flash_attention_is_refused(tmp_path):
    path = raw_gguf.model(raw_gguf.bpe_vocab(), "grok").write(tmp_path / "grok.gguf")
    with pytest.raises(
        UserError, match=r"'grok', which llama.cpp computes without flash attention"
    ):
        Vocab(path)
