"""The head's work in a group: all variants in turn, prompt by prompt, as often as asked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.cluster.acceptance.recording import RecordedToken, Recording
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.emulation import EmulationSettings
from pipeinfer_cli.commands.bench import post_run
from pipeinfer_cli.commands.bench.config import BenchGroup
from pipeinfer_cli.commands.bench.record import PLAIN, WARMUP, PipelineInfo, RecordWriter, Sample
from pipeinfer_cli.commands.bench.turns import Turn, first_turns, turns
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.head import Head, Request, check_room
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.vocabulary import PlainPrompts, load_vocab
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, N_BATCH
from pipeinfer_cli.scheduler.runs import MAX_SEED

N_WARMUP = 16  # tokens of a variant's first request, which is not measured


class GroupWork:
    """What the head does with the group's pipeline: see pipeline.run.

    Made before the pipeline is loaded; raises UserError if a prompt does not fit, or a draft model
    cannot be used.
    """

    def __init__(self, group: BenchGroup, plan: Plan) -> None:
        self._group, self._plan = group, plan
        self._vocab = load_vocab(plan.files.head_path, verbose=group.verbose)
        plain = PlainPrompts(self._vocab)
        self._prompts = [plain.tokens(prompt.text) for prompt in group.prompts]
        self._check_room()
        self._drafters = Drafters(group, self._vocab, plan.draft_cores)
        for variant in group.variants:  # what is wrong with a draft model is said now
            self._drafters.make(variant.drafter, variant.draft_model)
        self._ends = Ends(ignore_eos=group.ignore_eos)
        self._texts: dict[int, tuple[int, ...]] = {}  # the tokens of whole answers, by prompt

    def __call__(self, engine: Engine) -> None:
        """Takes all turns; what is measured goes to the group's record."""
        group = self._group
        with closing(self._drafters), RecordWriter(group.record) as record:
            record.write(_pipeline_info(self._plan, self._vocab, engine))
            head = Head(self._plan, engine, timeout_s=group.timeout_s)
            n_prompts = len(self._prompts)
            for turn in (
                *first_turns(group.variants, n_prompts, warmup=group.warmup),
                *turns(len(group.variants), n_prompts, group.repetitions),
            ):
                record.write(self._measure(turn, head))
            self._write_outputs(head)
            for note in head.overruns.notes():
                console.note(note)

    def _check_room(self) -> None:
        group, lengths = self._group, [len(prompt) for prompt in self._prompts]
        index = lengths.index(max(lengths))
        room = check_room(self._prompts[index], group.n_ctx, group.n_predict)
        if room < group.n_predict:
            raise UserError(
                f"prompt {group.prompts[index].id} leaves room for {room} of {group.n_predict} "
                f"tokens (-n): use -c {lengths[index] + group.n_predict}"
            )

    def _measure(self, turn: Turn, head: Head) -> Sample:
        n_late_before = head.overruns.n_late_in_all
        active = head.answer(self._request(turn), self._vocab, self._ends)
        tokens = tuple(active.answer.tokens)
        if turn.repetition != WARMUP or turn.variant == PLAIN:
            self._texts[turn.prompt] = tokens
        return Sample(
            repetition=turn.repetition,
            variant=turn.variant,
            prompt=turn.prompt,
            n_prompt=len(active.request.prompt),
            tokens=tokens,
            start_s=active.start_s,
            times_s=tuple(active.answer.times_s),
            counters=active.counters,
            n_late=head.overruns.n_late_in_all - n_late_before,
        )

    def _request(self, turn: Turn) -> Request:
        prompt, n_predict = self._prompts[turn.prompt], self._group.n_predict
        if turn.variant == PLAIN:
            return Request(prompt=prompt, n_max=n_predict, synthetic=self._text(turn))
        variant = self._group.variants[turn.variant]
        return Request(
            prompt=prompt,
            n_max=min(N_WARMUP, n_predict) if turn.repetition == WARMUP else n_predict,
            strategy=variant.strategy,
            ablations=variant.ablations,
            draft=variant.draft or DEFAULT_DRAFT,
            drafter=self._drafters.make(variant.drafter, variant.draft_model),
            prior=self._plan.prior(variant.draft_model),
            synthetic=self._text(turn),
        )

    def _write_outputs(self, head: Head) -> None:
        """What is not measured; the turns are over."""
        group = self._group
        if group.trace is not None:
            turn = Turn(repetition=0, variant=group.traced, prompt=0)
            request = self._request(turn)
            post_run.trace(
                group.trace,
                head,
                request,
                self._vocab,
                self._ends,
                label=self._emulation(turn).label,
            )
        if group.acceptance is not None:
            tokens: list[RecordedToken] = []
            variant = [each for each in group.variants if each.drafter != "none"][-1]
            kind = "model" if variant.drafter == "auto" else variant.drafter
            for prompt, text in sorted(self._texts.items()):
                drafter = self._drafters.make(kind, variant.draft_model)
                assert drafter is not None, "see BenchConfig"
                tokens += post_run.recorded_tokens(drafter, self._prompts[prompt], text)
            Recording(
                target=self._plan.files.head_path.name,
                drafter=kind,
                draft_model=Path(variant.draft_model).name if variant.draft_model else "",
                tokens=tuple(tokens),
            ).write(Path(group.acceptance))

    def _text(self, turn: Turn) -> SyntheticText | None:
        return self._emulation(turn).text(self._vocab.n_tokens)

    def _emulation(self, turn: Turn) -> EmulationSettings:
        """Each prompt has a seed of its own, the same for all variants and repetitions."""
        group = self._group
        seed = (group.sample.seed + turn.prompt) % (MAX_SEED + 1)
        return EmulationSettings.of(self._plan.profile, group.synth_acceptance, seed)


def _pipeline_info(plan: Plan, vocab: Vocab, engine: Engine) -> PipelineInfo:
    """What there is to say of the loaded pipeline."""
    model = vocab.metadata()
    return PipelineInfo(
        n_ranks=len(plan.layers),
        n_stages=plan.n_stages,
        n_batch=N_BATCH,
        n_threads=engine.config.n_threads,
        exact=plan.is_exact,
        model_filename=str(plan.files.head_path),
        model_type=model.type,
        model_size=model.size_bytes,
        model_n_params=model.n_params,
    )
