"""Several requests to one pipeline, one after the other: each finds it as if it were new."""

import threading
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from pipeinfer_cli.engine.config import CacheTypes, DraftCores
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime import drafters as drafters_module
from pipeinfer_cli.runtime.config import JobConfig
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.head import Head, Request, check_room
from pipeinfer_cli.scheduler.costs.measured import PriorCosts
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig
from pipeinfer_cli.scheduler.runs import KvKind, KvOp
from plans import plan_of
from scripted import PositionPipeline


class ScriptedEngine(PositionPipeline):
    """Notes what is submitted, too."""

    def __init__(self):
        super().__init__()
        self.run_ids = []
        self.first_runs = []  # of each request

    def submit(self, run):
        self.run_ids.append(run.run_id)
        if run.tokens[0].position == 0:
            self.first_runs.append(run)
        super().submit(run)


class CountingDrafter:
    """Right but for every fifth token."""

    def expand(self, batch, is_wanted):
        positions = [batch.n_text + len(branch) for branch in batch.branches]
        return [[(position + (position % 5 == 0), 1.0)] for position in positions]


class EndlessDrafter:
    """At work until nobody wants it any more."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.is_at_work = False

    def expand(self, batch, is_wanted):
        self.is_at_work = True
        self.begun.release()
        while is_wanted():
            threading.Event().wait(0.001)
        self.is_at_work = False


def n_drafter_threads():
    return sum(each.name == "drafter" for each in threading.enumerate())


def plan():
    return plan_of((LayerRange(0, 3),) * 3, n_ctx=64)


@pytest.mark.parametrize("strategy", ["iterative", "speculative", "pipeinfer", "auto"])
def test_requests_follow_one_another_on_one_pipeline(strategy):
    n_before = n_drafter_threads()
    engine = ScriptedEngine()
    head = Head(plan(), engine, timeout_s=5)
    for n_prompt in (3, 5, 2):
        request = Request(
            prompt=range(n_prompt), n_max=40, strategy=strategy, drafter=CountingDrafter()
        )
        with head.begin(request) as active:
            assert not engine.in_flight, "the request before has left something in flight"
            expected = list(range(n_prompt, n_prompt + 12))
            assert list(islice(active.tokens, 12)) == expected
        assert active.info.n_prompt == n_prompt
        assert active.info.strategy == strategy
        assert n_drafter_threads() <= n_before + 1, "the same for all requests"
    assert engine.run_ids == list(range(1, len(engine.run_ids) + 1))
    first, *others = engine.first_runs
    assert first.kv_ops == ()
    assert len(others) == 2
    for run in others:  # what the one before has left goes before anything else
        assert {op.kind for op in run.kv_ops} == {KvKind.REMOVE}
        assert run.kv_ops[-1] == KvOp(kind=KvKind.REMOVE, seq_src=0)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("draft", [DEFAULT_DRAFT, DraftConfig()], ids=["chosen", "fixed"])
def test_a_text_ends_while_its_drafter_is_at_work(draft):
    head = Head(plan(), ScriptedEngine(), timeout_s=5)
    drafter = EndlessDrafter()
    for _ in range(3):
        request = Request(
            prompt=range(4), n_max=9, strategy="pipeinfer", drafter=drafter, draft=draft
        )
        with head.begin(request) as active:
            assert list(islice(active.tokens, 1)) == [4]
            assert drafter.begun.acquire(timeout=5)
            assert list(islice(active.tokens, 8)) == list(range(5, 13))
        assert not drafter.is_at_work, "it is at rest after its request"
        assert active.counters.n_drafted == 0


@pytest.mark.timeout(20)
@pytest.mark.parametrize("draft", [DEFAULT_DRAFT, DraftConfig()], ids=["chosen", "fixed"])
def test_no_token_waits_for_a_drafter_that_reads_the_prompt(draft):
    """Its time for a batch may be known, and short: a prompt takes it longer."""
    times_s = dict.fromkeys((1, 2, 4, 8), (0.02, 0.06))
    request = Request(
        prompt=range(30),
        n_max=12,
        strategy="pipeinfer",
        draft=draft,
        drafter=EndlessDrafter(),
        prior=PriorCosts(by_size=times_s, draft_s=0.0005),
    )
    with Head(plan(), ScriptedEngine(), timeout_s=5).begin(request) as active:
        assert list(islice(active.tokens, 12)) == list(range(30, 42))


@pytest.mark.parametrize("strategy", ["iterative", "speculative", "pipeinfer", "auto"])
def test_a_prompt_that_goes_on_with_the_text_before_is_not_computed_again(strategy):
    engine = ScriptedEngine()
    head = Head(plan(), engine, timeout_s=5)
    n_reused = []
    for n_prompt in (3, 15, 12, 40):
        request = Request(
            prompt=range(n_prompt),
            n_max=20,
            strategy=strategy,
            drafter=CountingDrafter(),
            reuse=True,
        )
        with head.begin(request) as active:
            assert list(islice(active.tokens, 10)) == list(range(n_prompt, n_prompt + 10))
            n_reused.append(active.measure().n_reused)
    assert n_reused[0] == 0
    assert 12 <= n_reused[1] <= 14  # the last token of a text is not kept, of a prompt not reused
    assert n_reused[2] == 11
    assert 21 <= n_reused[3] <= 39


def test_many_requests_share_a_pipeline():
    n_before = n_drafter_threads()
    engine = ScriptedEngine()
    head = Head(plan(), engine, timeout_s=5)
    texts = {key: [] for key in range(5)}
    with head.streams("pipeinfer") as streams:
        todo, active = list(texts), set()
        while todo or active:
            while todo and len(active) < 3:
                key = todo.pop(0)
                active.add(key)
                request = Request(prompt=range(key + 2), n_max=20, strategy="pipeinfer")
                scheduler = head.begin_shared(request, has_drafter=True).scheduler
                streams.begin(key, scheduler, lambda slot: CountingDrafter())
            for key, tokens in streams.step():
                texts[key] += tokens
                if len(texts[key]) >= 10:
                    streams.end(key)
                    active.remove(key)
    assert {key: text[:10] for key, text in texts.items()} == {
        key: list(range(key + 2, key + 12)) for key in texts
    }
    assert not engine.in_flight
    assert n_drafter_threads() <= n_before + 3, "one for each request at a time"


def test_a_draft_models_vocabulary_is_compared_once_for_all_slots(monkeypatch, capsys):
    opened = []

    def read_model_info(path):
        opened.append(path.name)
        return SimpleNamespace(arch="llama", n_positions=0, kv=())

    monkeypatch.setattr(drafters_module, "read_model_info", read_model_info)
    monkeypatch.setattr(drafters_module, "load_vocab", mock.MagicMock())
    monkeypatch.setattr(
        drafters_module, "share", lambda *_: SimpleNamespace(n_shared=9, note="not all are shared")
    )
    monkeypatch.setattr(drafters_module, "ModelDrafter", mock.MagicMock())
    monkeypatch.setattr(drafters_module.resolve, "resolve", Path)
    types = CacheTypes("q8_0", "q4_0")
    config = JobConfig(model="m", draft_cache_types=types)
    drafters = Drafters(config, mock.MagicMock(), DraftCores(n_threads=1))
    for slot in (0, 1, 2):
        for _ in range(2):
            assert drafters.make("model", "d.gguf", slot=slot) is not None
    assert opened == ["d.gguf"]
    assert capsys.readouterr().err == "pipeinfer: note: not all are shared\n"
    made = [each.kwargs for each in drafters_module.ModelDrafter.call_args_list]
    assert [(each["n_shared"], each["cache_types"]) for each in made] == [(9, types)] * 3


def test_without_a_drafter_a_request_is_iterative():
    with Head(plan(), ScriptedEngine(), timeout_s=5).begin(
        Request(prompt=[0], n_max=4, strategy="pipeinfer")
    ) as active:
        assert list(islice(active.tokens, 4)) == [1, 2, 3, 4]
        assert active.info.strategy == "iterative"
        assert active.counters.n_drafted == 0


def test_a_prompt_needs_room():
    assert check_room([1] * 9, n_ctx=10, n_predict=5) == 2
    with pytest.raises(UserError, match=r"10 tokens, the context 10 .* -c 15"):
        check_room([1] * 10, n_ctx=10, n_predict=5)
    with pytest.raises(UserError, match="the prompt is empty"):
        check_room([], n_ctx=10, n_predict=5)
