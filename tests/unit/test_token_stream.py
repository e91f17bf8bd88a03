"""The head's loop with scripted tokens: text in whole characters, ends, silence."""

import io
import json
from dataclasses import replace
from itertools import count, islice
from types import SimpleNamespace

import pytest

from pipeinfer_cli.commands.generate import AnswerWriter, verify
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.runtime import decode_loop
from pipeinfer_cli.runtime.answer import Answer, AnswerBuilder, Ends, ids_of, texts
from pipeinfer_cli.runtime.head import Request, StreamedRequest
from pipeinfer_cli.runtime.text.token_stream import TokenStream
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.interfaces import DraftedBatch
from pipeinfer_cli.scheduler.metrics import Counters, RequestInfo, measure
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler
from scripted import PositionPipeline

END = 99
ADAPTIVE = Policy(draft=DEFAULT_DRAFT, is_adaptive=True, depth=4)


class ScriptedVocab:
    """Tokens are indices of byte pieces."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def piece(self, token, *, is_special=False):
        return b"" if token == END else self.pieces[token]

    def ends_generation(self, token):
        return token == END


def answer_of(tokens, vocab, n_max=100, *, ignore_eos=False):
    builder = AnswerBuilder(Answer(), vocab, n_max, Ends(ignore_eos=ignore_eos))
    pieces = list(texts(iter(tokens), builder))
    return builder.answer, pieces


def test_characters_come_whole():
    flower = "🌸".encode()
    vocab = ScriptedVocab(b"a", flower[:1], flower[1:3], flower[3:] + b"b")
    answer, pieces = answer_of([0, 1, 2, 3], vocab, n_max=4)
    assert pieces == ["a", "🌸b"]
    assert answer.text == "a🌸b"


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_more_tokens_end_the_text_and_have_no_part_in_it(ignore_eos):
    answer = Answer()
    ends = Ends(ignore_eos=ignore_eos, stop_tokens={1, 7})
    builder = AnswerBuilder(answer, ScriptedVocab(b"a", b"b"), 9, ends)
    assert "".join(texts(iter([0, 0, 1, 0]), builder)) == "aa"
    assert (answer.tokens, answer.finish_reason) == ([0, 0, 1], "stop")


class SpellingVocab:
    """Spells a text letter by letter, but for one token."""

    n_tokens = 10

    def tokenize(self, text, *, is_whole=True):
        assert not is_whole
        return [7] if text == "<end>" else list(range(len(text)))


def test_stop_tokens_are_ids_or_spellings():
    assert ids_of(SpellingVocab(), ["<end>", "3", 4]) == {7, 3, 4}
    for token, said in (("10", "ids are from 0 to 9"), (10, "0 to 9"), ("ab", "with 2 tokens")):
        with pytest.raises(UserError, match=f"--stop-token '?{token}'?: .*{said}"):
            ids_of(SpellingVocab(), [token])
    with pytest.raises(UserError, match=r"--stop-token '9+\.\.\.9+': ids are from 0 to 9"):
        ids_of(SpellingVocab(), ["9" * 5000])


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


def test_tokens_that_end_before_the_text_does_have_been_interrupted():
    answer, pieces = answer_of([0, 1], ScriptedVocab(b"a", b"b"), n_max=5)
    assert (answer.finish_reason, "".join(pieces)) == ("interrupted", "ab")


class EagerDrafts:
    """Drafts at once: position + 1 like the pipeline, but every fifth token is wrong."""

    def __init__(self):
        self.drafts = []

    def request(self, batch):
        positions = [batch.n_text + len(branch) for branch in batch.branches]
        candidates = tuple([(at + (at % 5 == 0), 0.9)] for at in positions)
        self.drafts.append(DraftedBatch(batch.epoch, candidates))

    def set_epoch(self, epoch):
        self.drafts = [draft for draft in self.drafts if draft.epoch >= epoch]

    def take(self):
        drafts, self.drafts = self.drafts, []
        return drafts


def scheduler_of(policy, n_max=30):
    return Scheduler([0, 1, 2], n_max=n_max, policy=policy, run_ids=count(1))


def test_a_silent_pipeline_ends_with_an_error():
    pipeline = PositionPipeline(is_silent=True)
    stream = TokenStream(pipeline, scheduler_of(Policy()), timeout_s=0.01)
    with pytest.raises(RunError, match=r"no result for 0.01 s"):
        next(iter(stream))


class HesitantPipeline(PositionPipeline):
    """Has nothing to tell at every second call."""

    n_calls = 0

    def wait(self, timeout_s):
        self.n_calls += 1
        return super().wait(timeout_s) if self.n_calls % 2 == 0 else None


def test_a_stage_does_not_hang_while_the_text_cannot_be_written(monkeypatch):
    now_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: now_s)
    monkeypatch.setattr(decode_loop, "time", clock)
    stream = TokenStream(HesitantPipeline(), scheduler_of(Policy()), timeout_s=1)
    for _ in islice(stream, 5):
        now_s += 10  # nothing is in flight meanwhile


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(draft=DraftConfig(n_max=3), depth=4),
        Policy(draft=DraftConfig(n_max=3), is_synchronous=True),
        ADAPTIVE,
        replace(ADAPTIVE, is_synchronous=True),
    ],
)
@pytest.mark.parametrize("auto", [None, AutoSpeculation])
def test_the_loop_streams_the_models_tokens_and_leaves_nothing_in_flight(policy, auto):
    if auto and policy.is_synchronous:
        return
    pipeline, scheduler = PositionPipeline(), scheduler_of(policy)
    stream = TokenStream(
        pipeline, scheduler, timeout_s=1, drafts=EagerDrafts(), auto=auto and auto()
    )
    assert list(islice(stream, 20)) == list(range(3, 23))
    stream.finish()
    assert scheduler.is_idle
    assert pipeline.in_flight == []


@pytest.mark.parametrize("policy", [Policy(draft=DraftConfig(n_max=3), depth=4), ADAPTIVE])
def test_what_is_in_flight_when_the_text_is_long_enough_is_superfluous(policy):
    pipeline = HesitantPipeline()  # drafts are made meanwhile
    scheduler = scheduler_of(policy)
    stream = TokenStream(pipeline, scheduler, timeout_s=1, drafts=EagerDrafts())
    info = RequestInfo(strategy="pipeinfer", n_ranks=1, n_stages=1, n_prompt=3)
    request = Request(prompt=[0, 1, 2], n_max=30)
    active = StreamedRequest(request=request, info=info, scheduler=scheduler, tokens=stream)
    assert list(islice(stream, 10)) == list(range(3, 13))
    n_live = scheduler.n_live
    assert n_live > 0
    for _ in range(2):  # measuring once more changes nothing
        assert active.measure().n_superfluous == n_live
    stream.finish()
    assert scheduler.is_idle
    assert scheduler.counters.n_superfluous == n_live


def test_the_stream_ends_when_it_is_asked_to():
    stops = []
    stream = TokenStream(
        PositionPipeline(), scheduler_of(Policy()), timeout_s=1, stop_requested=lambda: bool(stops)
    )
    tokens = iter(stream)
    assert [next(tokens), next(tokens)] == [3, 4]
    stops.append("now")
    assert list(tokens) == []
    stream.finish()


class Stdout(io.StringIO):
    def __init__(self):
        super().__init__()
        self.buffer = io.BytesIO()


def finished(output_format, answer, pieces):
    stdout = Stdout()
    writer = AnswerWriter(output_format, stdout, seed=5)
    for piece in pieces:
        writer.write(piece)
    info = RequestInfo(strategy="iterative", n_ranks=1, n_stages=1, n_prompt=3)
    writer.finish(answer, measure(info, 0.0, answer.times_s, Counters()))
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
    assert shown["seed"] == 5
    assert shown["finish_reason"] == "error"
    assert shown["stats"]["n_generated"] == 2


def test_verify_names_the_first_difference(capsys):
    verify([1, 2, 3], iter([1, 2, 3, 4]))
    assert "verified: 3 tokens" in capsys.readouterr().err
    verify([1, 2, 3], iter([1, 2]))  # interrupted
    assert capsys.readouterr().err == ""
    with pytest.raises(RunError, match="token 2 of 3 is 2, without speculation 9"):
        verify([1, 2, 3], iter([1, 9, 3]))
