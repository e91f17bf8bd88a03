"""Notes before the first token: vain options, a context beyond the training, inexact builds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeinfer_cli import console
from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.commands.batch.config import BatchConfig
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.commands.serve.config import ServeConfig
from pipeinfer_cli.engine.cpu.exactness import MEANING
from pipeinfer_cli.runtime.config import (
    CUTOFF,
    DRAFT_CHOICES,
    DRAFTS,
    SAMPLING,
    WITHOUT_TEMP,
    JobConfig,
    no_effect,
)
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.scheduler.policy import Policy

CTX_SIZE, N_PREDICT = "--ctx-size", "--n-predict"
# Of options in vain: no other says how to draft, but these already mean that one does.
FIXED = "drafts have fixed lengths and cutoffs: without {} they are chosen by expected gain"


@dataclass(frozen=True, slots=True)
class Rule:
    """Options that have no effect if something holds, and why."""

    options: tuple[str, ...]
    holds: Callable[[GenerateConfig, Plan], bool]
    why: str


def _is_greedy(config: GenerateConfig, _plan: Plan) -> bool:
    # Requests of others may have a temperature; synthetic verdicts are drawn by the seed.
    is_for_others = isinstance(config, BatchConfig | ServeConfig)
    return config.sample.temperature == 0 and not config.synth_acceptance and not is_for_others


def _policy(config: GenerateConfig, plan: Plan) -> Policy:
    shares_cores = config.uses_draft_model and plan.draft_cores.shares_cores
    return Policy.of(
        config.strategy, config.draft, n_stages=plan.n_stages, shares_cores=shares_cores
    )


def _never_drops(config: GenerateConfig, plan: Plan) -> bool:
    return not _policy(config, plan).is_synchronous


def _has_fixed_cutoff(config: GenerateConfig, plan: Plan) -> bool:
    policy = _policy(config, plan)
    return policy.is_synchronous and not policy.chooses_length


RULES = (
    Rule(SAMPLING, _is_greedy, WITHOUT_TEMP),
    Rule(
        ("--model-draft", "--drafter", *DRAFTS),
        lambda config, _: config.strategy == "iterative",
        "--strategy iterative drafts nothing",
    ),
    Rule(
        DRAFTS,
        lambda config, _: config.strategy != "iterative" and config.drafter == "none",
        "--drafter none drafts nothing",
    ),
    Rule(
        ("--drafter",),
        lambda config, _: config.strategy != "iterative" and config.synth_acceptance is not None,
        "--synth-acceptance is in place of a drafter",
    ),
    Rule(
        ("--draft-threads",),
        lambda config, _: config.draft_model is None and config.drafter != "none",
        "only a draft model (-md) computes with them",
    ),
    Rule(
        ("--cache-type-k-draft", "--cache-type-v-draft"),
        lambda config, _: config.draft_model is None and config.drafter != "none",
        "only a draft model (-md) has such a cache",
    ),
    Rule(("--draft-min",), _never_drops, "drafts are not waited for (only speculative does)"),
    Rule(CUTOFF, _has_fixed_cutoff, "speculative drafts of a given length have a fixed cutoff"),
    Rule(
        ("--draft-p-split",),
        lambda config, _: config.draft.width == 1,
        "drafts have one candidate per position (--draft-width)",
    ),
    Rule(
        ("--verify",),
        lambda config, _: config.strategy == "iterative",
        "the text is decoded without speculation anyway",
    ),
    Rule(
        ("--ignore-eos",),
        lambda config, _: config.synth_acceptance is not None,
        "drawn texts have no ends of generation",
    ),
    Rule(
        ("--format",),
        lambda config, _: isinstance(config, BatchConfig) and config.format == "text",
        "results of --prompts are lines of JSON",
    ),
    Rule(
        ("--escape",),
        lambda config, _: isinstance(config, BatchConfig) and not config.stop,
        "prompts in JSON have escape sequences of their own",
    ),
    Rule(
        ("--gpu-layers",),
        lambda config, plan: any(config.gpu_layers) and not plan.uses_devices,
        "no rank has a device that layers can be given to",
    ),
    Rule(
        ("--draft-device",),
        lambda config, _: config.draft_model is None and config.drafter != "none",
        "only a draft model (-md) computes with it",
    ),
    Rule(
        ("--layer-split",),
        lambda _, plan: len(plan.layers) == 1,
        "one rank holds all layers",
    ),
)


def notes(config: JobConfig, plan: Plan) -> Iterator[str]:
    """What the head says of the options before the work begins, one note for each matter."""
    yield from config.notes
    if plan.inexact:
        yield f"{plan.inexact}: {MEANING}"
    if plan.exact_shape:
        yield (
            f"{plan.exact_shape} tokens are computed at a time (--exact-shape): texts are equal to "
            "plain decoding in that shape, not to that of one token at a time"
        )
    trained = plan.model.n_ctx_train
    if CTX_SIZE in config.given and plan.n_ctx > trained > 0:
        yield f"-c {plan.n_ctx}: {_beyond(trained)}"
    if not isinstance(config, GenerateConfig):
        return
    is_batch = isinstance(config, BatchConfig)  # one request says it with its number of tokens
    if is_batch and N_PREDICT in config.given and plan.n_ctx < config.n_predict < MAX_COUNT:
        yield f"-n {config.n_predict}: the context of {plan.n_ctx} tokens (-c) ends texts before"
    said: set[str] = set()  # an option has one reason
    for rule in RULES:
        found = [each for each in rule.options if each in config.given and each not in said]
        if found and rule.holds(config, plan):
            said |= set(found)
            yield no_effect(found, rule.why)
    choices = [each for each in DRAFT_CHOICES if each in config.given]
    is_drafting = config.strategy != "iterative" and config.drafter != "none"
    if choices and is_drafting and said.issuperset(choices):
        yield FIXED.format(", ".join(choices))


class TrainingNote:
    """Says once that a text goes beyond what the model was trained for."""

    def __init__(self, config: JobConfig, plan: Plan) -> None:
        self._trained = plan.model.n_ctx_train
        is_said = CTX_SIZE in config.given and plan.n_ctx > self._trained
        self._is_due = self._trained > 0 and not is_said

    def __call__(self, n_tokens: int) -> None:
        """A text may have this number of tokens, with its prompt; the last one is not computed."""
        if self._is_due and n_tokens - 1 > self._trained:
            self._is_due = False
            console.note(f"prompt and text may have {n_tokens} tokens: {_beyond(self._trained)}")


def _beyond(trained: int) -> str:
    return f"the model was trained for {trained} tokens, and may be worse beyond them"
