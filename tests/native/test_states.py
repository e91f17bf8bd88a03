"""Recurrent layers' states in one process: kept, shared, taken back; or else an error."""

import itertools

import numpy as np
import pytest

from architectures import N_CTX, N_VOCAB
from architectures.hybrids import HYBRIDS
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.scheduler.policy import StateConfig
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken

pytestmark = pytest.mark.native

WAIT_S = 30
IDS = [int(token) for token in np.random.default_rng(5).integers(3, N_VOCAB, 60)]
STATES = StateConfig(n_places=6, n_runs=2, n_tokens=4)
MORE = StateConfig(n_places=8, n_runs=4, n_tokens=4)
TINY = {tiny.name: tiny for tiny in HYBRIDS}


class Decoder:
    """Submits runs of one sequence each, and remembers nothing."""

    def __init__(self, path, n_layer, states):
        capture_log()
        self.run_ids = itertools.count(1)
        self.engine = Engine(
            EngineConfig(
                model_path=path,
                layer_first=0,
                layer_last=n_layer,
                n_ctx=N_CTX,
                n_cells=2 * N_CTX,
                n_batch=32,
                n_threads=1,
                states=states,
            )
        )

    def submit(self, tokens, kv_ops=()):
        self.engine.submit(Run(run_id=next(self.run_ids), tokens=tuple(tokens), kv_ops=kv_ops))
        assert self.engine.wait(WAIT_S) is not None

    def feed(self, ids, first, sequence=0, kv_ops=()):
        """Logits after the last of the tokens, of which the first one has this position."""
        tokens = tuple(
            RunToken(id=token, position=first + i, seq_ids=(sequence,), want=True)
            for i, token in enumerate(ids)
        )
        self.submit(tokens, kv_ops)
        return self.engine.last_logits(N_VOCAB).tobytes() if ids else b""


@pytest.fixture
def make(tmp_path):
    opened = []

    def make(name="qwen35", states=STATES):
        tiny = TINY[name]
        decoder = Decoder(tiny.write(tmp_path / "tiny.gguf"), tiny.n_layer, states)
        opened.append(decoder.engine)
        return decoder

    yield make
    for engine in opened:
        engine.close()


def remove(first, sequence=0):
    return KvOp(kind=KvKind.REMOVE, seq_src=sequence, pos_first=first)


def copy(last, source=0, target=1):
    return KvOp(kind=KvKind.COPY, seq_src=source, seq_dst=target, pos_last=last)


def plain(make, name):
    """Logits after each token of IDS, one at a time."""
    decoder = make(name)
    return [decoder.feed([token], i) for i, token in enumerate(IDS)]


@pytest.mark.parametrize("name", [each for each in TINY if each != "kimi-linear"])
def test_a_text_goes_back_to_each_state_that_is_kept(make, name):
    expected, decoder = plain(make, name), make(name, MORE)
    decoder.feed(IDS[:20], 0)
    decoder.feed(IDS[20:26], 20)
    decoder.feed(IDS[26:28], 26)
    for back in (27, 26, 25, 24, 23, 20, 19, 18, 17):
        others = [(token + 1) % N_VOCAB for token in IDS[back : back + 2]]
        decoder.feed(others, back, kv_ops=(remove(back),))
        after = decoder.feed(IDS[back : back + 3], back, kv_ops=(remove(back),))
        assert after == expected[back + 2], back
        decoder.feed([], 0, kv_ops=(remove(back),))


@pytest.mark.parametrize("name", ["qwen35", "granitehybrid", "lfm2"])
def test_sequences_share_a_state_and_go_on_by_themselves(make, name):
    expected, decoder = plain(make, name), make(name)
    decoder.feed(IDS[:10], 0)
    decoder.feed(IDS[8:9], 8, 1, kv_ops=(copy(8),))  # before the end of what was computed
    assert decoder.feed(IDS[10:14], 10) == expected[13]
    decoder.feed([], 0, kv_ops=(remove(0, 1), copy(-1)))
    decoder.feed([], 0, kv_ops=(remove(0),))
    assert decoder.feed(IDS[14:15], 14, 1) == expected[14]
    assert decoder.feed(IDS[:12], 0) == expected[11]


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (remove(5), "cannot go back to position 5"),
        (copy(5), "cannot copy the states of sequence 0 after position 4"),
        (copy(20), "cannot copy"),
    ],
)
def test_what_is_not_kept_is_an_error(make, op, message):
    decoder = make()
    for first in range(0, 24, 6):
        decoder.feed(IDS[first : first + 6], first)
    with pytest.raises(RunError, match=message):
        decoder.feed([], 0, kv_ops=(op,))


def test_no_room_is_an_error(make):
    decoder = make(states=StateConfig(n_places=3, n_runs=2, n_tokens=1))
    decoder.feed(IDS[:3], 0)
    for sequence in (1, 2):  # which sequences 0 to 2 have in use
        decoder.feed(IDS[:3], 0, sequence)
    with pytest.raises(RunError, match="no room for the states"):
        decoder.feed(IDS[3:4], 3)


@pytest.mark.parametrize("name", ["qwen35", "granitehybrid", "lfm2"])
def test_states_move_where_a_run_of_several_sequences_needs_room(make, name):
    expected = plain(make, name)
    decoder = make(name, StateConfig(n_places=6, n_runs=1, n_tokens=2))
    for sequence in range(6):
        decoder.feed(IDS[:4], 0, sequence)
    decoder.feed([], 0, kv_ops=tuple(remove(0, sequence) for sequence in (1, 3, 5)))
    tokens = [
        RunToken(id=IDS[4], position=4, seq_ids=(sequence,), want=True) for sequence in (0, 2, 4)
    ]
    decoder.submit(tokens)
    assert decoder.engine.last_logits(N_VOCAB).tobytes() == expected[4]
    for sequence in (0, 2, 4):
        after = decoder.feed(IDS[5:6], 5, sequence)
        assert after == expected[5], sequence


@pytest.mark.parametrize(
    "states",
    [
        StateConfig(n_places=1, n_runs=1, n_tokens=1),
        StateConfig(n_places=256, n_runs=1, n_tokens=1),
        StateConfig(n_places=4, n_runs=0, n_tokens=1),
        StateConfig(n_places=4, n_runs=1, n_tokens=32),
    ],
)
def test_bounds_that_make_no_sense(make, states):
    with pytest.raises(RunError, match="states: n_places must be from 2 to 255"):
        make(states=states)


def test_states_inside_runs_of_an_architecture_without_them(make):
    expected, decoder = plain(make, "kimi-linear"), make("kimi-linear")
    decoder.feed(IDS[:5], 0)
    decoder.feed(IDS[5:8], 5)
    assert decoder.feed(IDS[5:7], 5, kv_ops=(remove(5),)) == expected[6]
    with pytest.raises(RunError, match="cannot go back to position 6"):
        decoder.feed([], 0, kv_ops=(remove(6),))
