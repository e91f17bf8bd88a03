"""What a job was asked to do: frozen, checked configurations, and reading a prompt."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pipeinfer_cli.batch.config import BatchFiles
from pipeinfer_cli.checks import check_count
from pipeinfer_cli.cluster.emulation import parse_acceptance
from pipeinfer_cli.engine.config import MAX_THREADS
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.policy import (
    DEFAULT_DRAFT,
    DRAFTERS,
    STRATEGIES,
    Ablation,
    DraftConfig,
    DrafterKind,
    Strategy,
    check_ablations,
)
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, SampleParams
from pipeinfer_cli.trace.config import NO_PICTURES, Pictures

OutputFormat = Literal["text", "json"]
FORMATS: tuple[OutputFormat, ...] = ("text", "json")

DEFAULT_N_PREDICT = 128
DEFAULT_N_CTX = 4096
DEFAULT_TIMEOUT_S = 300.0

# Of every rank, or a list with one number per rank; None: see environment.default_threads.
Threads = int | Sequence[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Where the prompt comes from: a text, a file, or (neither given) stdin."""

    text: str | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.file is not None:
            raise UserError("a prompt and -f/--file were both given: give one of them")

    @classmethod
    def from_options(cls, text: str | None, file: Path | None) -> Prompt:
        """The source that the command line names; `-` stands for stdin."""
        return cls(
            text=None if text == "-" else text,
            file=None if file is not None and str(file) == "-" else file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """What all ranks of a job need: from this a pipeline is loaded, which serves many requests.

    Raises UserError where it is built if a value makes no sense.
    """

    kind: ClassVar[str]  # tells a rank that we start which job it is, see generate.run_spawned

    model: str  # a GGUF path or a name of models.toml; see resolve.resolve
    n_ctx: int = DEFAULT_N_CTX  # tokens of prompt and text together
    ranks: int | None = None  # None: what the launcher started, or this machine's default
    layer_split: tuple[float, ...] | None = None  # a weight per rank; None: even by time or bytes
    threads: Threads = None
    plan_only: bool = False  # say where everything would be, and end
    report_binding: bool = False
    sample: SampleParams = DEFAULT_SAMPLE
    ignore_eos: bool = False
    verbose: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S  # nothing has got on for this long: the job ends
    log_file: str | None = None  # {rank} in it is the rank's
    draft_threads: int | None = None  # None: see environment.Seat.draft_cores
    emulate: str | None = None  # a profile's name or file; see cluster.profile_toml
    draft_ratio: float | None = None  # instead of the profile's draft time; see with_draft_ratio
    synth_acceptance: str | None = None  # see cluster.emulation.parse_acceptance

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("-m/--model is empty: give a GGUF path or a name of models list")
        check_count("-c/--ctx-size", self.n_ctx)
        check_count("--ranks", self.ranks)
        for count in self.threads if isinstance(self.threads, Sequence) else (self.threads,):
            check_count("-t/--threads", count, MAX_THREADS)
        check_count("--draft-threads", self.draft_threads, MAX_THREADS)
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise UserError(f"--timeout {self.timeout_s:g}: give a number of seconds above 0")
        if self.draft_ratio is not None and self.emulate is None:
            raise UserError(f"--draft-ratio {self.draft_ratio:g}: give --emulate with it")
        if self.synth_acceptance is not None:
            parse_acceptance(self.synth_acceptance)
        if self.layer_split is not None:
            _check_weights(self.layer_split)
            self._check_split_fits()

    def _check_split_fits(self) -> None:
        assert self.layer_split is not None
        if self.ranks is not None and self.ranks != len(self.layer_split):
            raise UserError(
                f"--layer-split has {len(self.layer_split)} weights for {self.ranks} ranks: "
                "give one weight per rank"
            )

    def threads_of(self, rank: int) -> int | None:
        """What was asked for; None: a default. A list that is too short is refused by the head."""
        if not isinstance(self.threads, Sequence):
            return self.threads
        return self.threads[rank] if rank < len(self.threads) else None

    @property
    def uses_draft_model(self) -> bool:
        """Whether the head's cores are a draft model's."""
        raise NotImplementedError

    @property
    def drafts(self) -> Sequence[DraftConfig]:
        """How its requests may draft."""
        raise NotImplementedError

    @property
    def n_texts(self) -> int:
        """Texts that have cells in the KV caches at a time."""
        return 1

    def to_json(self) -> str:
        """The configuration as text for a rank that we start ourselves."""
        return json.dumps({"kind": self.kind, **dataclasses.asdict(self)}, default=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(JobConfig):
    """One request: `pipeinfer generate`."""

    kind: ClassVar[str] = "generate"

    prompt: Prompt
    n_predict: int = DEFAULT_N_PREDICT  # tokens to generate at most
    stats: bool = False
    verify: bool = False  # decode the text once more without speculation, and compare
    format: OutputFormat = "text"
    strategy: Strategy = "auto"
    drafter: DrafterKind = "ngram"
    draft_model: str | None = None  # as `model`
    draft: DraftConfig = DEFAULT_DRAFT
    draft_given: tuple[str, ...] = ()  # its fields that were asked for; with `-md auto` they stay
    pictures: Pictures = NO_PICTURES
    ablations: tuple[Ablation, ...] = ()
    stop: tuple[str, ...] = ()  # strings before which the text ends
    chat: bool = False  # the prompt is a user's message
    system: str | None = None  # with chat
    batch: BatchFiles | None = None  # many prompts in place of `prompt`

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)  # super() does not know a class with slots
        check_count("-n/--n-predict", self.n_predict)
        check_texts(self.stop, self.system, chat=self.chat)
        if self.strategy not in STRATEGIES:
            raise UserError(f"--strategy {self.strategy!r}: give one of {', '.join(STRATEGIES)}")
        check_ablations(self.strategy, self.ablations)
        self._check_drafter()
        self._check_synthetic()
        self._check_batch()
        if self.format not in FORMATS:
            raise UserError(f"--format {self.format!r}: give one of {', '.join(FORMATS)}")

    def _check_drafter(self) -> None:
        if self.drafter not in DRAFTERS:
            raise UserError(f"--drafter {self.drafter!r}: give one of {', '.join(DRAFTERS)}")
        needs_model = self.drafter in ("model", "both")
        if needs_model and not self.draft_model:
            raise UserError(f"--drafter {self.drafter} needs a draft model: give one with -md")
        if self.draft_model and not needs_model:
            raise UserError(f"-md {self.draft_model}: --drafter {self.drafter} does not use it")
        if self.drafter == "none" and self.strategy not in ("iterative", "auto"):
            raise UserError(f"--strategy {self.strategy} needs a drafter: give one with --drafter")

    def _check_synthetic(self) -> None:
        if self.synth_acceptance is None:
            return
        if self.draft_model:
            raise UserError(f"-md {self.draft_model}: --synth-acceptance needs none: leave it out")
        if self.verify:
            raise UserError("--verify: the text of --synth-acceptance is drawn: leave --verify out")

    def _check_batch(self) -> None:
        if self.batch is None:
            return
        if self.prompt != Prompt():
            raise UserError("a prompt and --prompts were both given: give one of them")
        if self.verify:
            raise UserError("--verify: --prompts cannot be verified: leave one of them out")
        if self.batch.parallel > 1 and (self.emulate or self.synth_acceptance):
            raise UserError(
                f"--parallel {self.batch.parallel}: an emulated cluster and a synthetic text are "
                "for one request at a time: leave --parallel out"
            )
        pictures = self.pictures
        if pictures.trace or pictures.plot or pictures.live:
            raise UserError("--trace, --plot and --live show one request: leave out --prompts")

    @property
    def uses_draft_model(self) -> bool:
        """Whether the head's cores are a draft model's."""
        return self.draft_model is not None and self.strategy != "iterative"

    @property
    def drafts(self) -> Sequence[DraftConfig]:
        """How its request drafts."""
        return [] if self.strategy == "iterative" else [self.draft]

    @property
    def n_texts(self) -> int:
        """Those of a batch, and the one that ended last: another may begin like it."""
        if self.batch is None or self.batch.parallel == 1:
            return 1
        return self.batch.parallel + 1

    @classmethod
    def from_json(cls, text: str) -> GenerateConfig:
        """Inverse of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        assert fields.pop("kind") == cls.kind
        prompt = fields.pop("prompt")
        file = None if prompt["file"] is None else Path(prompt["file"])
        split = fields.pop("layer_split")
        draft = DraftConfig(**fields.pop("draft"))
        batch = fields.pop("batch")
        return cls(
            prompt=Prompt(text=prompt["text"], file=file),
            sample=SampleParams(**fields.pop("sample")),
            layer_split=None if split is None else tuple(split),
            draft=draft,
            draft_given=tuple(fields.pop("draft_given")),
            pictures=Pictures.from_fields(fields.pop("pictures")),
            ablations=tuple(fields.pop("ablations")),
            stop=tuple(fields.pop("stop")),
            batch=None if batch is None else BatchFiles.from_fields(batch),
            **fields,
        )


def parse_format(text: str) -> OutputFormat:
    """`text` or `json`; GenerateConfig refuses anything else."""
    return cast("OutputFormat", text)


def parse_layer_split(text: str) -> tuple[float, ...] | None:
    """`2,1,1` as a weight per rank; `auto` as None. Raises UserError."""
    if text.strip() == "auto":
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--layer-split {text!r} is no list of numbers: "
            "give a weight per rank like 2,1,1, or auto"
        ) from None
    _check_weights(weights)
    return weights


def read_prompt(prompt: Prompt) -> str:
    """The prompt's text. Files and stdin lose one final newline, as in llama.cpp's tools.

    Raises UserError if it cannot be read, is not UTF-8, or nothing was given on a terminal.
    """
    if prompt.text is not None:
        return _decode(prompt.text.encode(errors="surrogateescape"), "the prompt argument")
    if prompt.file is not None:
        return _read_file(prompt.file).removesuffix("\n")
    return _read_stdin().removesuffix("\n")


def _read_file(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the prompt file {str(file)!r}: {error.strerror}: check -f/--file"
        ) from None
    return _decode(data, f"the prompt file {str(file)!r}")


def _read_stdin() -> str:
    if sys.stdin is None:
        raise UserError("there is no prompt and no stdin: give a PROMPT argument or -f FILE")
    if sys.stdin.isatty():
        raise UserError(
            "there is no prompt: give it as an argument, with -f FILE, or through a pipe on stdin"
        )
    text = _decode(sys.stdin.buffer.read(), "the prompt on stdin")
    if not text:
        raise UserError("the prompt on stdin is empty: pipe a text, or give an argument or -f FILE")
    return text


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source} is not UTF-8 text (byte {error.start}): convert it, for example with iconv"
        ) from None


def check_texts(stop: Sequence[str], system: str | None, *, chat: bool) -> None:
    """UserError for stop strings and system texts that make no sense."""
    for text in stop:
        if not _decode(text.encode(errors="surrogateescape"), "--stop"):
            raise UserError("--stop '': every text has it: give some characters")
    if system is not None:
        _decode(system.encode(errors="surrogateescape"), "--system")
        if not chat:
            raise UserError("--system: give --chat with it, or use pipeinfer chat")


def _check_weights(weights: tuple[float, ...]) -> None:
    shown = ",".join(f"{weight:g}" for weight in weights)
    if any(not math.isfinite(weight) or weight < 0 for weight in weights):
        raise UserError(f"--layer-split {shown}: weights are finite numbers of 0 or more")
    if any(weight == 0 for weight in weights[1:]) or not any(weights):
        # Rank 0 without layers still drives the others; any other rank would only idle.
        raise UserError(f"--layer-split {shown}: only rank 0 may have the weight 0")
