"""Models with recurrent layers: the scheduler asks for no state that is not kept."""

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from games import Game, Player
from pipeinfer_cli.scheduler import kv_sequences
from pipeinfer_cli.scheduler.kv_sequences import CachedPrefix, SequencePool
from pipeinfer_cli.scheduler.policy import (
    DEFAULT_DRAFT,
    MAX_PLACES,
    DraftConfig,
    Policy,
    StateConfig,
    kept_states,
)
from scripted import N_VOCAB, ScriptedPipeline, plain
from scripted_states import ScriptedStates

texts = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=12)
drafts = st.none() | st.just(DEFAULT_DRAFT)
drafts |= st.builds(
    DraftConfig,
    n_max=st.integers(1, 31),
    p_min=st.sampled_from([0.0, 0.3]),
    width=st.integers(1, 3),
    p_split=st.just(0.0),
)
ABLATIONS = ((), ("no-cancel",), ("no-continuous",), ("no-reactive",), ("paper",))
strategies = st.sampled_from(["iterative", "speculative", "pipeinfer", "auto"])


def states_for(draft, *, n_stages, n_texts=1, inside_runs=True):
    """As a job's plan has them."""
    n_draft_max = 0 if draft is None else 31 if draft.is_auto else draft.n_max
    return kept_states(
        depth=Policy.depth_of(n_stages),
        n_stages=n_stages,
        n_texts=n_texts,
        n_draft_max=n_draft_max,
        inside_runs=inside_runs,
    )


def pipeline_of(states, random):
    pipeline = ScriptedPipeline(hear=random.randint)
    pipeline.stages = [ScriptedStates(states), ScriptedStates(states)]
    return pipeline


@settings(max_examples=4 * settings.default.max_examples)
@given(
    prompt=texts,
    n_max=st.integers(1, 30),
    strategy=strategies,
    draft=drafts,
    ablations=st.sampled_from(ABLATIONS),
    n_stages=st.integers(1, 5),
    n_batch=st.integers(1, 32),
    inside_runs=st.booleans(),
    shares_cores=st.booleans(),
    random=st.randoms(use_true_random=True),
)
def test_every_state_that_is_asked_for_is_there(
    prompt, n_max, strategy, draft, ablations, n_stages, n_batch, inside_runs, shares_cores, random
):
    states = states_for(draft, n_stages=n_stages, inside_runs=inside_runs)
    policy = Policy.of(
        strategy,
        draft,
        n_stages=n_stages,
        n_batch=n_batch,
        ablations=ablations if strategy in ("pipeinfer", "auto") else (),
        shares_cores=shares_cores,
        states=states,
    )
    assert policy.draft is None or (inside_runs and not policy.is_adaptive)
    pipeline, pool = pipeline_of(states, random), SequencePool(has_states=True)
    with mock.patch.object(kv_sequences, "N_HOLES_MAX", 3):
        game = Game(random, pipeline, prompt, n_max, policy, pool=pool)
        assert game.play()[:n_max] == plain(prompt, n_max)
        kept = game.close()
        # the next prompt goes on with the text or a part of it, or is another
        after = [*prompt, *game.tokens[: random.randint(0, len(game.tokens))], 1]
        after = random.choice([after, prompt[::-1]])
        n_common = kept.n_common(after) if kept else 0
        game = Game(random, pipeline, after, n_max, policy, pool=pool, kept=kept)
        assert game.play()[:n_max] == plain(after, n_max)
        assert game.scheduler.n_reused == n_common
    for stage in pipeline.stages:
        assert stage.most_places <= states.n_places


heads = st.sampled_from([[], [3, 1, 4], [3, 1, 4, 1, 5, 9, 2, 6]])


@settings(max_examples=3 * settings.default.max_examples)
@given(
    jobs=st.lists(st.tuples(heads, texts, st.integers(1, 12)), min_size=1, max_size=7),
    strategy=strategies,
    draft=drafts,
    n_stages=st.integers(1, 4),
    n_parallel=st.integers(1, 5),
    random=st.randoms(use_true_random=True),
)
def test_texts_that_share_a_pipeline_share_whole_beginnings(
    jobs, strategy, draft, n_stages, n_parallel, random
):
    # one more than are decoded: the text of a request that is over
    states = states_for(draft, n_stages=n_stages, n_texts=n_parallel + 1)
    policy = Policy.of(strategy, draft, n_stages=n_stages, states=states)
    jobs = [(head + tail, n_max, policy) for head, tail, n_max in jobs]
    player = Player(
        random,
        pipeline_of(states, random),
        n_stages=n_stages,
        n_batch=32,
        n_parallel=n_parallel,
        pool=SequencePool(has_states=True),
    )
    with mock.patch.object(kv_sequences, "N_HOLES_MAX", 3):
        assert player.play(jobs) == [plain(prompt, n_max) for prompt, n_max, _ in jobs]
    assert player.pool.n_used == 0


def test_a_text_with_states_is_continued_at_its_end_only():
    text = CachedPrefix(tokens=(1, 2, 3), sequence=0, is_whole=True)
    assert text.n_common([1, 2, 3, 4]) == 3
    assert text.n_common([1, 2, 3]) == 0, "the last token of a prompt is left to feed"
    assert text.n_common([1, 2, 4, 4]) == 0


def test_plain_decoding_keeps_little():
    assert kept_states(
        depth=5, n_stages=4, n_texts=1, n_draft_max=0, inside_runs=True
    ) == StateConfig(n_places=3, n_runs=1, n_tokens=1)


@pytest.mark.parametrize("n_texts", [1, 8, 64, 200])
def test_places_are_no_more_than_llama_cpp_has(n_texts):
    states = kept_states(depth=9, n_stages=8, n_texts=n_texts, n_draft_max=31, inside_runs=True)
    assert n_texts < states.n_places <= MAX_PLACES
