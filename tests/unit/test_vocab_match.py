"""Vocabularies of target and draft: the same, nearly the same, others."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.drafters.vocab_match import share
from pipeinfer_cli.engine.vocab import TYPES
from pipeinfer_cli.errors import UserError

KINDS = {name: bit for bit, name in TYPES.items()}
DRAFT = Path("draft.gguf")


def vocab(*texts, kind="normal"):
    return [(text.encode(), KINDS[kind]) for text in texts]


WORDS = vocab("a", "b", "c")
PADS = vocab("[PAD3]", "[PAD4]", kind="unused")
ADDED = vocab("<|im_start|>", kind="control") + vocab("<tool>", kind="user-defined")


def test_the_same_vocabulary_is_shared_whole_and_in_silence():
    shared = share(WORDS + ADDED, WORDS + ADDED, DRAFT)
    assert (shared.n_shared, shared.note) == (5, "")


@pytest.mark.parametrize(
    ("target", "draft"),
    [
        (WORDS + PADS, WORDS),
        (WORDS, WORDS + PADS),
        (WORDS + ADDED, WORDS),
        (WORDS, WORDS + ADDED),
        (WORDS + ADDED, WORDS + PADS),  # added in place of padding
        (WORDS + PADS, WORDS + ADDED),
        (WORDS + PADS, WORDS + vocab("<unused0>", "<unused1>", kind="unused")),
    ],
)
def test_a_near_match_is_allowed_and_said(target, draft):
    shared = share(target, draft, DRAFT)
    assert shared.n_shared == len(WORDS)
    assert "they share the first 3" in shared.note
    assert "\n" not in shared.note


@pytest.mark.parametrize(
    ("target", "draft", "message"),
    [
        (WORDS, vocab("a", "x", "y"), r"token 1 is 'x' \(normal\), the target's is 'b' \(normal\)"),
        (WORDS, vocab("a", "b") + vocab("c", kind="control"), r"token 2 is 'c' \(control\)"),
        (WORDS + vocab("d"), WORDS, r"token 3 is missing, the target's is 'd' \(normal\)"),
        (WORDS, WORDS + vocab("d"), r"token 3 is 'd' \(normal\), the target's is missing"),
        (WORDS + PADS, WORDS + PADS + vocab("d"), "token 5 is 'd'"),
        (
            WORDS + ADDED,
            WORDS + vocab("<|x|>", kind="control"),
            r"token 3 is '<\|x\|>' \(control\)",
        ),
        (WORDS + PADS, WORDS + vocab("d"), "token 3 is 'd'"),
        ([(b"\xff", 4)], [(b"\xfe", 4)], r"token 0 is '\\\\xfe'"),
    ],
)
def test_another_vocabulary_is_refused_with_the_first_token_that_differs(target, draft, message):
    with pytest.raises(UserError, match=message):
        share(target, draft, DRAFT)


ENTRIES = st.lists(
    st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from(sorted(TYPES))), max_size=5
)


@given(common=ENTRIES, target=ENTRIES, draft=ENTRIES)
def test_no_id_is_shared_that_the_target_lacks_or_knows_otherwise(common, target, draft):
    target, draft = common + target, common + draft
    try:
        n_shared = share(target, draft, DRAFT).n_shared
    except UserError:
        assert target != draft
        return
    assert target[:n_shared] == draft[:n_shared]
    assert len(common) <= n_shared <= min(len(target), len(draft))
