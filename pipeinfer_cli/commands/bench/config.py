"""What `pipeinfer bench` was asked to compare: lists, their product, and its groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypeVar, cast

from pipeinfer_cli.checks import check_count, check_lists
from pipeinfer_cli.commands.bench.outputs import NO_OUTPUTS, Outputs
from pipeinfer_cli.commands.bench.prompts import BenchPrompt
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.config import DRAFTS, SAMPLING, WITHOUT_TEMP, JobConfig, no_effect
from pipeinfer_cli.scheduler.policy import (
    DEFAULT_STRATEGIES,
    DRAFTERS,
    DraftConfig,
    DrafterKind,
    Variant,
    check_auto_drafter,
    parse_strategy,
)
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE

OutputFormat = Literal["auto", "md", "csv", "json", "jsonl"]  # auto: drawn on a terminal, else md
FORMATS: tuple[OutputFormat, ...] = ("auto", "md", "csv", "json", "jsonl")
DEFAULT_REPETITIONS = 5
AnyGroup = TypeVar("AnyGroup", bound="BenchGroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchGroup(JobConfig):
    """One pipeline, loaded once, and the variants that take turns on it."""

    variants: tuple[Variant, ...]
    prompts: tuple[BenchPrompt, ...]
    n_predict: int  # at most this number of tokens for each prompt
    repetitions: int
    warmup: bool
    record: str  # a file, for commands.bench.record
    trace: str | None = None  # a file, for a further request of the variant with this index
    traced: int = -1
    acceptance: str | None = None  # a file, for what the last drafting variant's drafter knows

    @property
    def uses_draft_model(self) -> bool:
        """Whether the head's cores are a draft model's."""
        return any(variant.draft_model for variant in self.variants)

    @property
    def drafts(self) -> Sequence[DraftConfig]:
        """How its requests draft."""
        return [variant.draft for variant in self.variants if variant.draft is not None]

    def resolved(self: AnyGroup) -> AnyGroup:
        """The same with the models' files. Raises UserError."""
        from pipeinfer_cli.models.resolve import file_of

        variants = tuple(
            replace(each, draft_model=file_of(each.draft_model)) for each in self.variants
        )
        return JobConfig.resolved(replace(self, variants=variants))


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """The command line. Raises UserError where it is built if a value is invalid."""

    models: tuple[str, ...]
    ranks: tuple[int | None, ...] = (None,)
    threads: tuple[int | None, ...] = (None,)
    emulate: tuple[str | None, ...] = (None,)  # profiles
    synth_acceptance: tuple[str | None, ...] = (None,)
    strategies: tuple[str, ...] = DEFAULT_STRATEGIES  # each may have ablations: `pipeinfer:...`
    drafters: tuple[str, ...] = ()  # none: `model` with a draft model, else `ngram`
    draft_models: tuple[str, ...] = ()
    draft: Mapping[str, Sequence[float | None]] = dataclasses.field(default_factory=dict)
    """Values of DraftConfig's fields, by their names; n_max None: auto."""
    prompts: str | None = None  # a file; None: the set that comes with the package
    n_predict: int
    repetitions: int = DEFAULT_REPETITIONS
    warmup: bool = True
    output: OutputFormat = "auto"
    outputs: Outputs = NO_OUTPUTS
    job: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """JobConfig's other fields."""

    def __post_init__(self) -> None:
        check_count("-n/--n-predict", self.n_predict)
        check_count("-r/--repetitions", self.repetitions)
        if self.output not in FORMATS:
            raise UserError(f"-o/--output {self.output!r}: give one of {', '.join(FORMATS)}")
        drafts = {draft_option(name): values for name, values in self.draft.items()}
        check_lists({"-m/--model": self.models, "--strategy": self.strategies, **drafts})
        if "auto" in self.draft_models:  # see resolve.AUTO
            raise UserError("-md auto: name the drafts to compare (models pairs lists pairs)")
        if self.draft_models and self.synth_acceptance != (None,):
            raise UserError(
                f"-md {self.draft_models[0]}: --synth-acceptance needs none: leave it out"
            )
        self._check_outputs()
        tuple(self.groups((), ""))  # what is wrong is said before anything starts

    def groups(self, prompts: Sequence[BenchPrompt], record: str) -> Iterator[BenchGroup]:
        """A group for each pipeline that has to be loaded."""
        variants = tuple(dict.fromkeys(self._variants()))
        products = list(
            product(self.models, self.emulate, self.ranks, self.threads, self.synth_acceptance)
        )
        for index, (model, emulate, ranks, threads, acceptance) in enumerate(products):
            outputs = self._of_group(variants) if index == len(products) - 1 else {}
            said = {"notes": (), "given": ()} if index else {"notes": self.notes}  # once
            job = {**self.job, **said}
            yield BenchGroup(
                model=model,
                ranks=ranks,
                threads=threads,
                emulate=emulate,
                synth_acceptance=acceptance,
                variants=variants,
                prompts=tuple(prompts),
                n_predict=self.n_predict,
                repetitions=self.repetitions,
                warmup=self.warmup,
                record=record,
                **outputs,
                **job,
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the command line before the work begins."""
        given = self.job.get("given", ())
        is_greedy = self.job.get("sample", DEFAULT_SAMPLE).temperature == 0
        found = {
            WITHOUT_TEMP: SAMPLING if is_greedy and self.synth_acceptance == (None,) else (),
            "no --strategy drafts": ("--model-draft", "--drafter", *DRAFTS)
            if all(each.strategy == "iterative" for each in self._variants())
            else (),
        }
        options = {why: [each for each in names if each in given] for why, names in found.items()}
        effects = [no_effect(names, why) for why, names in options.items() if names]
        return (*self.job.get("notes", ()), *effects)

    def _check_outputs(self) -> None:
        """UserError unless there is what a trace and a recording are about."""
        variants = list(self._variants())
        if self.outputs.trace_of not in (None, *(variant.name for variant in variants)):
            raise UserError(
                f"--trace-of {self.outputs.trace_of}: give one of those that --strategy has"
            )
        if self.outputs.acceptance is None:
            return
        if self.synth_acceptance != (None,):
            raise UserError(
                "--record-acceptance cannot be combined with --synth-acceptance: leave one out"
            )
        if all(variant.drafter == "none" for variant in variants):
            raise UserError("--record-acceptance: no --strategy drafts: add one that does")

    def _of_group(self, variants: Sequence[Variant]) -> dict[str, Any]:
        """BenchGroup's fields for the outputs; the last group writes them."""
        name = self.outputs.trace_of or variants[-1].name
        return {
            "trace": self.outputs.trace,
            "traced": max(index for index, each in enumerate(variants) if each.name == name),
            "acceptance": self.outputs.acceptance,
        }

    def _variants(self) -> Iterator[Variant]:
        for name in self.strategies:
            strategy, ablations = parse_strategy(name)
            if strategy == "iterative":
                yield Variant(strategy=strategy)
                continue
            for (drafter, model), draft in product(self._sources(), self._drafts()):
                check_auto_drafter(drafter, strategy, name)
                # as in generate
                is_chosen = strategy == "auto" and model and draft.is_auto and not self.drafters
                yield Variant(
                    strategy=strategy,
                    ablations=ablations,
                    drafter="auto" if is_chosen else drafter,
                    draft_model=model,
                    draft=draft,
                )

    def _sources(self) -> Iterator[tuple[DrafterKind, str | None]]:
        for drafter in self.drafters or ("model" if self.draft_models else "ngram",):
            if drafter not in DRAFTERS or drafter == "none":
                choice = ", ".join(each for each in DRAFTERS if each != "none")
                raise UserError(f"--drafter {drafter!r}: give one or more of {choice}")
            kind = cast("DrafterKind", drafter)
            if kind == "ngram":
                yield kind, None
            elif not self.draft_models:
                raise UserError(f"--drafter {kind} needs a draft model: give one with -md")
            else:
                yield from ((kind, model) for model in self.draft_models)

    def _drafts(self) -> Iterator[DraftConfig]:
        for values in product(*self.draft.values()):
            fields: dict[str, Any] = dict(zip(self.draft, values, strict=True))
            is_auto = not fields
            yield DraftConfig.of(fields.pop("n_max", None), is_auto=is_auto, **fields)


def draft_option(field: str) -> str:
    """The option of a field of DraftConfig: `n_max` is --draft-max, `p_min` --draft-p-min."""
    return f"--draft-{field.removeprefix('n_').replace('_', '-')}"
