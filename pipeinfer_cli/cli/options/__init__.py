"""The options that generate, chat and bench share, each declared once.

A command takes an option by naming its alias in its signature. Where typer has no type for a
value, its alias says Any and the parser makes the value.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeinfer_cli.cli.parsing.command import notes_of
from pipeinfer_cli.cli.parsing.values import count_or_rest, integer, number
from pipeinfer_cli.engine.config import CACHE_TYPES
from pipeinfer_cli.runtime import config
from pipeinfer_cli.scheduler.runs import SampleParams

ANY_SEED = -1  # draw one
DRAWN_SEED_BITS = 32  # short enough to type again

# model, context and ranks

MODEL = typer.Option(
    "-m", "--model", metavar="MODEL", help="A GGUF path, a model's name, or hf:USER/REPO[:QUANT]."
)
Model = Annotated[str, MODEL]
NPredict = Annotated[
    int,
    typer.Option(
        "-n",
        "--n-predict",
        parser=count_or_rest,
        metavar="N",
        help="Generate at most N tokens; -1: what the context leaves.",
    ),
]
CtxSize = Annotated[
    int,
    typer.Option(
        "-c",
        "--ctx-size",
        parser=integer,
        metavar="N",
        help="Room for prompt and text, in tokens; 0: what the model was trained for.",
    ),
]
RANKS = typer.Option(
    "--ranks",
    parser=integer,
    metavar="N",
    help="Local ranks to start; default: one per NUMA node.",
)
Ranks = Annotated[int | None, RANKS]
LayerSplit = Annotated[
    Any,
    typer.Option(
        "--layer-split",
        parser=config.parse_layer_split,
        metavar="WEIGHTS",
        help="A weight per rank (2,1,1), or auto: even by time if calibrated, else by bytes.",
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option("--plan", help="Print what each rank would hold, and where, without loading it."),
]
TYPES = "|".join(CACHE_TYPES)
CACHE_TYPE_K = typer.Option(
    "-ctk", "--cache-type-k", metavar="TYPE", help=f"Type of the KV cache's keys: {TYPES}."
)
CACHE_TYPE_V = typer.Option(
    "-ctv", "--cache-type-v", metavar="TYPE", help="Type of its values, one of the same."
)
CacheTypeK = Annotated[str, CACHE_TYPE_K]
CacheTypeV = Annotated[str, CACHE_TYPE_V]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        parser=number,
        metavar="SECONDS",
        help="End when no stage makes progress for this long.",
    ),
]
LogFile = Annotated[
    str | None,
    typer.Option(
        "--log-file",
        metavar="PATH",
        help="Append what each rank does to a log; {rank} gives each a file of its own.",
    ),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print more to stderr.")]

# what changes the target


def _own_unless(name: str, help_text: str, metavar: str = "X") -> Any:
    """An option with a number."""
    parse = integer if metavar == "N" else number
    return typer.Option(
        name, parser=parse, metavar=metavar, help=f"{help_text}; default: as the GGUF says."
    )


Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="Add a LoRA adapter (a GGUF), times SCALE (1); may be repeated.",
    ),
]
RopeScaling = Annotated[
    str | None,
    typer.Option(
        "--rope-scaling",
        metavar="none|linear|yarn",
        help="How positions are scaled for longer texts; default: as the GGUF says.",
    ),
]
RopeScale = Annotated[float | None, _own_unless("--rope-scale", "By how much texts are longer")]
RopeFreqBase = Annotated[float | None, _own_unless("--rope-freq-base", "Base of the frequencies")]
RopeFreqScale = Annotated[float | None, _own_unless("--rope-freq-scale", "1 / --rope-scale")]
YarnOrigCtx = Annotated[
    int | None, _own_unless("--yarn-orig-ctx", "YaRN: tokens of the training's texts", "N")
]
YarnExtFactor = Annotated[
    float | None, _own_unless("--yarn-ext-factor", "YaRN: weight of extrapolation; 0: none")
]
YarnAttnFactor = Annotated[
    float | None, _own_unless("--yarn-attn-factor", "YaRN: factor of queries and keys")
]
YarnBetaSlow = Annotated[
    float | None, _own_unless("--yarn-beta-slow", "YaRN: fewer turns than this are interpolated")
]
YarnBetaFast = Annotated[
    float | None, _own_unless("--yarn-beta-fast", "YaRN: more turns than this are extrapolated")
]

# sampling

Temp = Annotated[
    float, typer.Option("--temp", parser=number, metavar="T", help="Temperature; 0 is greedy.")
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k",
        parser=integer,
        metavar="N",
        help="With --temp: draw from the N most likely tokens; 0: all.",
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        parser=number,
        metavar="P",
        help="With --temp: of these, the fewest with total probability P; 1: all.",
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        "--min-p",
        parser=number,
        metavar="P",
        help="With --temp: of these, those with at least P times the top probability; 0: all.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "-s",
        "--seed",
        parser=integer,
        metavar="N",
        help="With --temp: seed of the draw; the same seed gives the same text. -1: draw one.",
    ),
]

# the text

PromptText = Annotated[
    str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="As the argument PROMPT.")
]
Escape = Annotated[
    bool,
    typer.Option("-e", "--escape", help="Read \\n, \\t, \\xHH etc. in prompt and --stop."),
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Continue after end-of-generation tokens.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text; may be given repeatedly."),
]
StopToken = Annotated[
    list[str] | None,
    typer.Option(
        "--stop-token",
        metavar="TOKEN",
        help="A further end of generation: an id, or a token as it is spelled; may be repeated.",
    ),
]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="The prompt is a user's message, in the model's chat template."),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="System message of the chat."),
]
TemplateFile = Annotated[
    Path | None,
    typer.Option(
        "--chat-template", metavar="FILE", help="A chat template in place of the model's own."
    ),
]
TemplateKwargs = Annotated[
    str,
    typer.Option(
        "--chat-template-kwargs",
        metavar="JSON",
        help="Values for the template's variables: an object.",
        show_default=False,
    ),
]
Reasoning = Annotated[
    str,
    typer.Option(
        "--reasoning",
        metavar="on|off|auto",
        help="The chat template's switch for thinking; auto: leave it.",
    ),
]
ReasoningEffort = Annotated[
    str | None,
    typer.Option(
        "--reasoning-effort",
        metavar="LEVEL",
        help="A level that the chat template knows: low, medium, high.",
    ),
]
Grammar = Annotated[
    str | None,
    typer.Option(
        "--grammar",
        metavar="TEXT|FILE",
        help="A grammar that the text follows: llguidance's Lark, or GBNF.",
    ),
]
JsonSchema = Annotated[
    str | None,
    typer.Option("--json-schema", metavar="TEXT|FILE", help="A JSON schema that the text follows."),
]
ShowStats = Annotated[bool, typer.Option("--stats", help="Print statistics to stderr.")]
FORMAT = typer.Option("--format", metavar="text|json", help="text, or json: one object at the end.")
Format = Annotated[str, FORMAT]

# emulated clusters

EMULATE = typer.Option(
    "--emulate",
    metavar="PROFILE",
    help="Emulate a cluster on this host: a profile's name, or a TOML file.",
)
Emulate = Annotated[str | None, EMULATE]
SYNTH_ACCEPTANCE = typer.Option(
    "--synth-acceptance",
    metavar="RATE",
    help="Draw verdicts instead of the model's: a rate, or one per token ahead (0.8/0.7/0.6).",
)
SynthAcceptance = Annotated[str | None, SYNTH_ACCEPTANCE]

# pictures

Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE.json", help="Write a trace of the runs, for Perfetto."),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.svg|png", help="Draw what drafter and stages did, and when."
    ),
]
PlotWindow = Annotated[
    str | None,
    typer.Option(
        "--plot-window",
        metavar="START:END",
        help="Draw this part, in ms from the request's start; default: the first seconds.",
    ),
]
Live = Annotated[
    bool, typer.Option("--live", help="Show on stderr what the stages are doing during generation.")
]


def sampling(temp: float, top_k: int, top_p: float, min_p: float, seed: int) -> SampleParams:
    """How tokens are drawn; draws a seed for ANY_SEED. Raises UserError."""
    drawn = secrets.randbits(DRAWN_SEED_BITS) if seed == ANY_SEED else seed
    return SampleParams(temperature=temp, top_k=top_k, top_p=top_p, min_p=min_p, seed=drawn)


def notes(context: typer.Context, sample: SampleParams) -> tuple[str, ...]:
    """What is to be said about the command line before the work begins."""
    is_drawn = context.params.get("seed") == ANY_SEED and sample.temperature > 0
    said = f"--seed -1: the seed is {sample.seed}"
    return (*notes_of(context), *([said] if is_drawn else []))


def given(context: typer.Context) -> tuple[str, ...]:
    """The long names of the options that are on the command line."""
    return tuple(
        max(param.opts, key=len)
        for param in context.command.params
        if param.param_type_name == "option"
        and (source := context.get_parameter_source(str(param.name)))
        and source.name == "COMMANDLINE"
    )
