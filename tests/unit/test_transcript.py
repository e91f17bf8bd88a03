"""Chat templates, and prompts that begin with the tokens of the turn before."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.transcript import (
    Transcript,
    continuation,
    matching_tokens,
    whole_prompt,
)
from pipeinfer_cli.errors import UserError

CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>' + '\n' }}"
    "{% endfor %}{{ '<s>assistant\n' }}"
)
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")
WITH_BOS = "{{ '<bos>' }}" + CHATML
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHATML
)
IGNORES_SYSTEM = CHATML.replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
)
NO_THOUGHTS = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")


def raise_exception(message):
    raise ValueError(message)


def template_of(source, system=None):
    parsed = ImmutableSandboxedEnvironment().from_string(source)
    return ChatTemplate(
        lambda messages, **variables: parsed.render(
            messages=messages, raise_exception=raise_exception, **variables
        ),
        system=system,
    )


class Words:
    """A tokenizer of special tokens, and of words with the space before them; bytes have ids, too.

    `has_space_prefix`: like SentencePiece's, it puts a space before text that begins, or follows a
    special token.
    """

    SPECIAL = ("<bos>", "<s>", "</s>")

    def __init__(self, *, adds_bos=False, has_space_prefix=False):
        self.adds_bos = adds_bos
        self.bos = 0
        self.pieces = [each.encode() for each in self.SPECIAL]
        self.pieces += [bytes([value]) for value in range(256)]
        self.has_space_prefix = has_space_prefix

    def tokenize(self, text, *, is_whole=True):
        ids = []
        for part in re.split("(<bos>|<s>|</s>)", text):
            if part in self.SPECIAL:
                ids.append(self.SPECIAL.index(part))
            elif part:
                ids += self.words(" " + part if self.has_space_prefix else part)
        return [self.bos, *ids] if is_whole and self.adds_bos else ids

    def words(self, text):
        return [self.id_of(each.encode()) for each in re.findall(" ?[a-z]+|[^a-z]", text)]

    def id_of(self, piece):
        if piece not in self.pieces:
            self.pieces.append(piece)
        return self.pieces.index(piece)

    def text(self, token):
        return self.pieces[token]

    def piece(self, token, *, is_special=False):
        return b"" if token < len(self.SPECIAL) and not is_special else self.pieces[token]

    def spell(self, tokens):
        return b"".join(self.pieces[token] for token in tokens).decode()


def test_a_prompt_begins_with_what_was_fed_and_generated():
    vocab = Words()
    transcript = Transcript(vocab, template_of(CHATML))
    first = list(transcript.ask("hello there"))
    answer = [vocab.id_of(piece) for piece in (b"good", b" mo", b"rning", b"</s>")]
    transcript.keep(answer, "good morning")
    second = list(transcript.ask("and now"))
    assert second[: len(first) + 3] == first + answer[:3]  # not as the tokenizer would cut it
    assert vocab.spell(second) == (
        "<s>user\nhello there</s>\n<s>assistant\ngood morning</s>\n<s>user\nand now</s>\n"
        "<s>assistant\n"
    )
    transcript.keep([vocab.id_of(b"never")], "never")
    third = transcript.ask("why")
    assert third[: len(second) + 1] == [*second, vocab.id_of(b"never")]


def test_a_message_that_was_not_answered_is_not_kept():
    transcript = Transcript(Words(), template_of(CHATML))
    first = list(transcript.ask("hello"))
    transcript.ask("something else")
    assert transcript.ask("hello") == first


def test_an_answer_goes_on_after_its_own_tokens():
    vocab = Words()
    transcript = Transcript(vocab, template_of(CHATML))
    with pytest.raises(UserError, match="no answer to continue"):
        transcript.go_on()
    first = list(transcript.ask("hello"))
    said = [vocab.id_of(piece) for piece in (b"go", b"od")]
    transcript.keep([*said, 2], "good")
    assert transcript.go_on() == [*first, *said]
    transcript.keep([vocab.id_of(b" day")], " day")
    assert transcript.go_on() == [*first, *said, vocab.id_of(b" day")]
    transcript.keep([], "")
    assert vocab.spell(transcript.ask("why")).endswith(
        "<s>assistant\ngood day</s>\n<s>user\nwhy</s>\n<s>assistant\n"
    )


def test_an_answer_that_was_cut_in_mid_token_goes_on_where_its_text_ends():
    vocab = Words()
    transcript = Transcript(vocab, template_of(CHATML))
    first = list(transcript.ask("hello"))
    transcript.keep([vocab.id_of(piece) for piece in (b"good", b" day.User")], "good day.")
    assert vocab.spell(transcript.go_on()) == vocab.spell(first) + "good day."


@pytest.mark.parametrize("source", [CHATML, TRIMMING, WITH_BOS, IGNORES_SYSTEM])
@pytest.mark.parametrize("said", ["good", "good \n", "</s", "s", "é"])
def test_a_last_answer_is_continued(source, said):
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": said}]
    begun = template_of(source).text(messages[:1])
    assert template_of(source).text(messages) == begun + said


def test_an_empty_last_answer_is_begun():
    template = template_of(CHATML)
    messages = [{"role": "user", "content": "u"}]
    assert template.text([*messages, {"role": "assistant", "content": ""}]) == template.text(
        messages
    )


def test_a_template_that_hides_the_last_answer_says_so():
    source = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    with pytest.raises(UserError, match="leaves out the last message"):
        template_of(source).text(messages)


def test_after_a_reset_nothing_is_known():
    transcript = Transcript(Words(), template_of(CHATML, system="be kind"))
    first = list(transcript.ask("hello"))
    transcript.keep([5], "x")
    transcript.reset()
    assert transcript.ask("hello") == first


@pytest.mark.parametrize(
    ("source", "pieces", "said", "n_kept"),
    [
        (TRIMMING, (b"good", b"\n", b"\n"), "good\n\n", 1),  # what is trimmed is fed no more
        (CHATML, (b"good", b" day.User", b":"), "good day.", 1),  # a stop string in mid-token
        (CHATML, (b"good", b"\xc3", b"</s>"), "good\N{REPLACEMENT CHARACTER}", 1),
        (CHATML, (b"good", b"</s>", b" more"), "good more", 1),  # with --ignore-eos
        (TRIMMING, (b" good",), " good", 0),  # the text is another: all is tokenized again
        (NO_THOUGHTS, (b"hm", b"</think>", b"yes"), "hm</think>yes", 0),
    ],
)
def test_only_what_the_template_repeats_is_kept(source, pieces, said, n_kept):
    vocab = Words()
    template = template_of(source)
    transcript = Transcript(vocab, template)
    first = list(transcript.ask("hello"))
    answer = [vocab.id_of(piece) for piece in pieces]
    transcript.keep(answer, said)
    second = transcript.ask("and now")
    roles = ["user", "assistant", "user"]
    messages = zip(roles, ["hello", said, "and now"], strict=True)
    text = template.text([{"role": role, "content": content} for role, content in messages])
    assert vocab.spell(second) == text
    assert second[: len(first) + n_kept] == first + answer[:n_kept]


CONTENTS = st.text("ab \n.é", max_size=8)


@given(
    source=st.sampled_from([CHATML, TRIMMING, WITH_BOS, NO_SYSTEM, IGNORES_SYSTEM, NO_THOUGHTS]),
    system=st.none() | CONTENTS,
    adds_bos=st.booleans(),
    turns=st.lists(st.tuples(CONTENTS, CONTENTS, st.integers(1, 3)), min_size=1, max_size=4),
)
def test_prompts_spell_what_the_template_says_with_one_bos(source, system, adds_bos, turns):
    vocab = Words(adds_bos=adds_bos)
    template = template_of(source, system)
    transcript = Transcript(vocab, template)
    messages = []
    for asked, said, size in turns:
        prompt = transcript.ask(asked)
        messages.append({"role": "user", "content": asked})
        text = template.text(messages)
        has_bos = adds_bos or source == WITH_BOS
        assert vocab.spell(prompt).removeprefix("<bos>") == text.removeprefix("<bos>")
        assert prompt.count(vocab.bos) == has_bos
        data = said.encode()
        pieces = [data[first : first + size] for first in range(0, len(data), size)]
        transcript.keep([*map(vocab.id_of, pieces), 2], said)
        messages.append({"role": "assistant", "content": said})


def test_a_text_that_goes_on_gets_no_space_before_it():
    vocab = Words(has_space_prefix=True)
    assert vocab.spell(continuation(vocab, "and so on</s>")) == "and so on</s>"
    assert vocab.spell(continuation(vocab, "</s>\n")) == "</s> \n"  # as in the whole text
    assert continuation(vocab, "") == []


def test_a_tokenizer_that_hides_its_anchor_tokenizes_everything():
    class Odd(Words):
        def words(self, text):
            return [self.id_of(text.encode())]

    assert continuation(Odd(has_space_prefix=True), "and so on") is None


def test_a_bos_is_there_once_where_model_or_template_want_it():
    vocab = Words()
    assert whole_prompt(vocab, "a") == vocab.tokenize("a")
    assert whole_prompt(vocab, "<bos>a") == [0, *vocab.tokenize("a")]
    vocab.adds_bos = True
    assert whole_prompt(vocab, "a") == whole_prompt(vocab, "<bos>a") == vocab.tokenize("a")
    vocab.bos = None
    assert 0 not in whole_prompt(vocab, "a")


def test_half_a_character_is_not_spelled():
    vocab = Words()
    tokens = [vocab.id_of(piece) for piece in (b"a", b"\xc3", b"\xa9", b"\xc3")]
    assert matching_tokens(vocab, tokens, "aé") == (tokens[:3], 3)
    assert matching_tokens(vocab, tokens[:2], "aé") == (tokens[:1], 1)


@pytest.mark.parametrize("source", [NO_SYSTEM, IGNORES_SYSTEM])
def test_a_system_text_without_a_role_goes_before_the_first_message(source):
    template = template_of(source, system="Be kind.")
    roles = ["user", "assistant", "user"]
    text = template.text([{"role": role, "content": role[0]} for role in roles])
    assert text == (
        "<s>user\nBe kind.\n\nu</s>\n<s>assistant\na</s>\n<s>user\nu</s>\n<s>assistant\n"
    )
    assert "no system role" in template.note


def test_a_system_text_has_its_role():
    template = template_of(CHATML, system="Be kind.")
    assert template.text([{"role": "user", "content": "u"}]).startswith("<s>system\nBe kind.</s>")
    assert template.note == ""


def test_what_a_template_refuses_is_said():
    with pytest.raises(UserError, match="chat template fails: only Latin"):
        template_of("{{ raise_exception('only Latin') }}")
