"""Stop strings: whatever the pieces, the text is that of the whole, cut."""

from collections import deque

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.runtime.answer import Answer, AnswerBuilder, Ends, texts
from pipeinfer_cli.runtime.text.stop_strings import StopStrings

# few letters, so that strings overlap and repeat; one of them has several bytes
TEXTS = st.text("abé", max_size=20)
STRINGS = st.lists(st.text("abé", min_size=1, max_size=4), max_size=3)


def cut(text, strings):
    """By definition: character by character, before the longest string that is complete first."""
    for end in range(len(text) + 1):
        ends = [s for s in strings if text[:end].endswith(s)]
        if ends:
            return text[: end - max(map(len, ends))]
    return text


def cut_spelled(elements, strings):
    """As `cut`, of characters and whole control tokens."""

    def text(some):
        return "".join(each for each, is_text in some if is_text)

    def is_stop(some):
        spelled = "".join(each for each, _ in some)
        return spelled in strings or (some[0][1] and some[-1][1] and text(some) in strings)

    for end in range(1, len(elements) + 1):
        starts = [start for start in range(end) if is_stop(elements[start:end])]
        if starts:
            return text(elements[: starts[0]])
    return text(elements)


def streamed(pieces, strings):
    stops = StopStrings(strings)
    return [stops.feed(piece) for piece in pieces] + [stops.finish()]


@given(pieces=st.lists(TEXTS, max_size=8), strings=STRINGS)
@example(pieces=["ab", "ab", "aé"], strings=["abaé"])
@example(pieces=["abab"], strings=["baba", "ab"])
def test_any_pieces_give_the_text_of_the_whole(pieces, strings):
    assert "".join(streamed(pieces, strings)) == cut("".join(pieces), strings)


@given(text=TEXTS, strings=STRINGS)
def test_no_more_is_held_back_than_may_begin_a_stop_string(text, strings):
    stops = StopStrings(strings)
    released = ""
    for count, character in enumerate(text, start=1):
        released += stops.feed(character)
        if stops.is_found:
            return
        held = text[len(released) : count]
        assert not held or any(s.startswith(held) for s in strings)


def test_what_comes_after_the_end_is_dropped():
    stops = StopStrings(["b"])
    assert [stops.feed("ab"), stops.is_found, stops.feed("c"), stops.finish()] == [
        "a",
        True,
        "",
        "",
    ]


class Bytes:
    """Token ids are bytes; 0 ends the text, 1 is another control token."""

    def piece(self, token, *, is_special=False):
        if token < 2:
            return (b"<end>", b"<user>")[token] if is_special else b""
        return bytes([token])

    def ends_generation(self, token):
        return token == 0


def answer_to(tokens, stop, n_max=100):
    answer = Answer()
    stream = texts(tokens, AnswerBuilder(answer, Bytes(), n_max, Ends(stop=stop)))
    return answer, list(stream)


@given(text=TEXTS, strings=STRINGS)
def test_an_answer_of_single_bytes_is_cut_in_whole_characters(text, strings):
    answer, pieces = answer_to([*text.encode(), 0], strings)
    assert answer.text == "".join(pieces) == cut(text, strings)
    assert answer.finish_reason == "stop"


def test_control_tokens_have_a_text_where_that_is_asked_for():
    answer = Answer()
    builder = AnswerBuilder(answer, Bytes(), 9, Ends(spelled=[0, 1]))
    assert [builder.feed(token) for token in (97, 1, 0)] == ["a", "<user>", ""]
    assert (answer.text, answer.finish_reason) == ("a<user>", "stop")


def test_the_tokens_end_with_the_one_that_completes_the_stop_string():
    answer, pieces = answer_to(b"one\nUser: two", ["\nUser:"])
    assert pieces == ["o", "n", "e"]
    assert bytes(answer.tokens) == b"one\nUser:"
    assert len(answer.times_s) == len(answer.tokens)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("tokens", "stop", "text", "n_tokens"),
    [
        (b"one\x01two\x00", ["<user>"], "one", 4),
        (b"one\x01two\x00", ["ne<user>t"], "o", 5),
        (b"one\x01two\x00", ["etw"], "on", 6),  # as the user sees it
        (b"one\x01two\x00", ["wo<end>"], "onet", 8),
        (b"one\x01\x01two\x00", ["<user><user>"], "one", 5),
        (b"one\x01two\x00", ["<user>one"], "onetwo", 8),
        (b"a<us\x01\x00", ["<us<user>"], "a", 5),
        (b"one<user>", ["<user>"], "one", 9),  # in ordinary tokens
        (b"one\x01two\x00", ["<", "er>t", "e<us"], "onetwo", 8),  # a control token is a whole
    ],
)
def test_control_tokens_are_spelled_for_stop_strings(tokens, stop, text, n_tokens):
    answer, pieces = answer_to(tokens, stop)
    assert "".join(pieces) == answer.text == text
    assert len(answer.tokens) == n_tokens
    assert answer.finish_reason == "stop"


@given(
    pieces=st.lists(st.tuples(TEXTS, st.sampled_from(["", "<a>", "b"])), max_size=6),
    strings=st.lists(st.text("ab<>", min_size=1, max_size=4), max_size=3),
)
def test_any_pieces_with_control_tokens_give_the_text_of_the_whole(pieces, strings):
    stops = StopStrings(strings)
    streamed = "".join([stops.feed(text, spelling) for text, spelling in pieces])
    streamed += stops.finish()
    elements = []
    for text, spelling in pieces:
        elements += [(each, True) for each in text] + [(spelling, False)] * bool(spelling)
    assert streamed == cut_spelled(elements, strings)


def test_the_beginning_of_a_stop_string_is_text_when_the_answer_ends_with_it():
    answer, pieces = answer_to(b"one\nUs", ["\nUser:"], n_max=6)
    assert pieces == ["o", "n", "e", "\nUs"]
    assert (answer.text, answer.finish_reason) == ("one\nUs", "length")


def test_the_beginning_of_a_stop_string_is_text_when_the_ranks_fail():
    def failing():
        yield from b"a\n"
        raise RunError("rank 1 is gone")

    answer, pieces = Answer(), []
    builder = AnswerBuilder(answer, Bytes(), 9, Ends(stop=["\n\n"]))
    stream = texts(failing(), builder)
    with pytest.raises(RunError, match="rank 1"):
        deque(map(pieces.append, stream))
    assert pieces == ["a", "\n"]
    assert (answer.text, answer.finish_reason) == ("a\n", "error")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"stop": ("ok", "")}, "--stop ''"),
        ({"stop": ("\udcff",)}, "--stop is not UTF-8"),
        ({"system": "Be brief."}, "--system requires --chat"),
    ],
)
def test_options_that_make_no_sense_are_refused(more, message):
    with pytest.raises(UserError, match=message):
        GenerateConfig(model="m.gguf", prompt=Prompt(text="x"), **more)
