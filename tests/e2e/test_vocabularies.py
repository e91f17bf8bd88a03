"""Targets and drafts whose vocabularies are nearly the same: the text is the target's own."""

import pytest

from padded_models import tiny_llama
from pipeinfer_cli.engine.vocab import Vocab
from support import pipeinfer, run_json, smollm2

pytestmark = pytest.mark.e2e

N_MORE = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    padded = tiny_llama(smollm2(), folder / "padded.gguf", n_more=N_MORE)
    return {"smollm2": smollm2(), "padded": padded}


def generated(model, *more):
    command = ["generate", "-m", str(model), "-n", "12", "-c", "64", "-t", "1", "--ranks", "2"]
    return run_json(pipeinfer(*command, "--format", "json", *more, "The sea is"))


@pytest.mark.parametrize(("target", "draft"), [("smollm2", "padded"), ("padded", "smollm2")])
def test_a_near_match_writes_the_targets_text(models, target, draft):
    n_known = Vocab(smollm2()).n_tokens
    n_target = n_known + (N_MORE if target == "padded" else 0)
    n_draft = n_known + (N_MORE if draft == "padded" else 0)
    plain, _ = generated(models[target], "--strategy", "iterative", "--ignore-eos")
    drafted = ["-md", str(models[draft]), "--strategy", "speculative", "-pa", "0", "--ignore-eos"]
    shown, said = generated(models[target], *drafted)
    assert shown["tokens"] == plain["tokens"]
    assert shown["stats"]["n_drafted"] > 0
    assert any(token >= n_known for token in plain["tokens"]) == (target == "padded")
    assert said == (
        f"pipeinfer: note: the draft model has {n_draft} tokens, the target {n_target}: "
        f"they share the first {n_known}, and only those are drafted\n"
    )
