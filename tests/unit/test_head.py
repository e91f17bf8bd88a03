"""The head's loop with scripted tokens: text in whole characters, ends, silence."""

import io
import json

import pytest

from pipeinfer_cli.errors import RunError
from pipeinfer_cli.head import Answer, Writer, answer_tokens, token_stream
from pipeinfer_cli.runs import Fate, Result, Run
from pipeinfer_cli.stats import measure

END = 99


class ScriptedVocab:
    """Tokens are indices of byte pieces."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def piece(self, token):
        return b"" if token == END else self.pieces[token]

    def ends_generation(self, token):
        return token == END


def answer_of(tokens, vocab, n_max=100, *, ignore_eos=False):
    answer = Answer()
    pieces = list(answer_tokens(iter(tokens), vocab, n_max, ignore_eos=ignore_eos, answer=answer))
    return answer, pieces


def test_characters_come_whole():
    flower = "🌸".encode()
    vocab = ScriptedVocab(b"a", flower[:1], flower[1:3], flower[3:] + b"b")
    answer, pieces = answer_of([0, 1, 2, 3], vocab, n_max=4)
    assert pieces == ["a", "🌸b"]
    assert answer.text == "a🌸b"


def test_half_a_character_at_the_end_becomes_a_replacement_character():
    answer, _ = answer_of([0, 1], ScriptedVocab(b"a", "é".encode()[:1]), n_max=2)
    assert answer.text == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("tokens", "n_max", "ignore_eos", "text", "n_tokens", "reason"),
    [
        ([0, 1, END, 0], 10, False, "ab", 3, "stop"),
        ([0, 1, 0, 1], 3, False, "aba", 3, "length"),
        ([0, END, 1, 0], 4, True, "aba", 4, "length"),
        ([0, END], 2, False, "a", 2, "stop"),
        ([END], 1, True, "", 1, "length"),
    ],
)
def test_ends(tokens, n_max, ignore_eos, text, n_tokens, reason):
    answer, pieces = answer_of(tokens, ScriptedVocab(b"a", b"b"), n_max, ignore_eos=ignore_eos)
    assert "".join(pieces) == answer.text == text
    assert len(answer.tokens) == n_tokens == len(answer.times_s)
    assert answer.finish_reason == reason


class Silence:
    def submit(self, run):
        pass

    def wait(self, timeout_s):
        return None


class OneRun:
    def take_runs(self):
        return [Run(run_id=1)]

    def on_result(self, result):
        raise AssertionError


def test_a_silent_pipeline_ends_with_an_error():
    with pytest.raises(RunError, match=r"no result for 0.01 s"):
        next(token_stream(Silence(), OneRun(), timeout_s=0.01))


class Echo:
    """A pipeline whose result for run n is the row n."""

    def __init__(self):
        self.queue = []

    def submit(self, run):
        self.queue.append(run.run_id)

    def wait(self, timeout_s):
        run_id = self.queue.pop(0)
        return Result(run_id=run_id, epoch=0, fate=Fate.COMPLETED, rows=(run_id,), times=())


class CountUp:
    def __init__(self):
        self.last = 0

    def take_runs(self):
        self.last += 1
        return [Run(run_id=self.last)]

    def on_result(self, result):
        return list(result.rows)


def test_stream_stands_still_between_tokens():
    echo = Echo()
    stream = token_stream(echo, CountUp(), timeout_s=1)
    assert [next(stream), next(stream)] == [1, 2]
    assert echo.queue == []


class Stdout(io.StringIO):
    def __init__(self):
        super().__init__()
        self.buffer = io.BytesIO()


def finished(output_format, answer, pieces):
    stdout = Stdout()
    writer = Writer(output_format, stdout)
    for piece in pieces:
        writer.write(piece)
    writer.finish(answer, measure(0.0, answer.times_s, n_ranks=1, n_stages=1, n_prompt=3))
    return stdout.buffer.getvalue().decode()


def test_text_ends_with_one_newline():
    answer, pieces = answer_of([0, 1], ScriptedVocab(b"a", b"b"), 2)
    assert finished("text", answer, pieces) == "ab\n"
    answer, pieces = answer_of([0, 1], ScriptedVocab(b"a", b"\n"), 2)
    assert finished("text", answer, pieces) == "a\n"


def test_json_is_one_object_also_after_an_error():
    answer = Answer(tokens=[0, 1], times_s=[1.0, 2.0], text="ab")
    shown = json.loads(finished("json", answer, ["a", "b"]))
    assert shown["text"] == "ab"
    assert shown["tokens"] == [0, 1]
    assert shown["n_prompt"] == 3
    assert shown["finish_reason"] == "error"
    assert shown["stats"]["n_generated"] == 2
