"""The drafters of requests: made, loaded once, and told apart."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.drafters.chosen import ChosenDrafter
from pipeinfer_cli.drafters.fallback import FallbackDrafter
from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.drafters.ngram import NgramDrafter
from pipeinfer_cli.drafters.vocab_match import share
from pipeinfer_cli.engine.config import DraftCores
from pipeinfer_cli.engine.formats import StateKind, state_kind
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models import resolve
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.gguf.kv import check_cache_types
from pipeinfer_cli.runtime.config import JobConfig
from pipeinfer_cli.runtime.vocabulary import load_vocab
from pipeinfer_cli.scheduler.interfaces import Drafter
from pipeinfer_cli.scheduler.policy import CHOICE, DrafterKind
from pipeinfer_cli.scheduler.runs import SampleParams


class Drafters:
    """Makes the requests' drafters.

    A draft model is loaded once for each slot, and serves one request after the other.
    """

    def __init__(self, config: JobConfig, vocab: Vocab, cores: DraftCores) -> None:
        self._config = config
        self._vocab = vocab
        self._cores = cores
        self._models: dict[tuple[Path, int], ModelDrafter] = {}
        # tokens that a draft model shares with the target, and its context
        self._limits_of: dict[Path, tuple[int, int]] = {}

    def make(
        self,
        kind: DrafterKind,
        draft_model: str | None,
        sample: SampleParams | None = None,
        slot: int = 0,
    ) -> Drafter | None:
        """A drafter that knows no text yet, and draws as the target does; None: as the job says.

        The one before it, of the same slot, is not used any more. UserError if its vocabulary is
        not the target's.
        """
        if kind == "none":
            return None
        if kind == "ngram":
            return NgramDrafter()
        assert draft_model is not None
        model = self._load(resolve.resolve(draft_model), slot)
        model.forget(sample or self._config.sample)
        ngram = NgramDrafter()
        drafters: dict[DrafterKind, Drafter] = {
            "model": model,
            "both": FallbackDrafter(ngram, model),
            "ngram": ngram,
        }
        if kind == "auto":
            return ChosenDrafter({each: drafters[each] for each in CHOICE})
        return drafters[kind]

    def close(self) -> None:
        """Frees the draft models."""
        while self._models:
            self._models.popitem()[1].close()

    def _load(self, path: Path, slot: int) -> ModelDrafter:
        if (path, slot) not in self._models:
            n_shared, n_ctx = self._limits(path)
            self._models[path, slot] = ModelDrafter(
                path,
                n_ctx=n_ctx,
                cores=self._cores,
                sample=self._config.sample,
                n_shared=n_shared,
                cache_types=self._config.draft_cache_types,
            )
        return self._models[path, slot]

    def _limits(self, path: Path) -> tuple[int, int]:
        """How many tokens a draft model shares with the target, and its context; looked up once."""
        if path not in self._limits_of:
            info = read_model_info(path)  # says what is wrong with the file
            if state_kind(info.arch) is not StateKind.NONE:
                raise UserError(
                    f"{str(path)!r} has layers with recurrent states and cannot draft: use another "
                    "draft model, or --drafter ngram"
                )
            check_cache_types(info.kv, self._config.draft_cache_types)
            draft_vocab = load_vocab(path, verbose=self._config.verbose)
            shared = share(self._vocab.entries(), draft_vocab.entries(), path)
            if shared.note:
                console.note(shared.note)
            n_ctx = self._config.n_ctx
            self._limits_of[path] = shared.n_shared, min(n_ctx, info.n_positions or n_ctx)
        return self._limits_of[path]


def kind_of(drafter: Drafter | None) -> Hashable:
    """What drafters have in common that cost the same, and know the same."""
    if isinstance(drafter, FallbackDrafter | ChosenDrafter):
        return type(drafter).__name__, *map(kind_of, drafter.drafters)
    return id(drafter) if isinstance(drafter, ModelDrafter) else type(drafter).__name__


def uses_model(drafter: Drafter | None) -> bool:
    """Whether a draft model computes for it on the head's cores."""
    if isinstance(drafter, FallbackDrafter | ChosenDrafter):
        return any(map(uses_model, drafter.drafters))
    return isinstance(drafter, ModelDrafter)


def model_alone(drafter: Drafter | None) -> ModelDrafter | None:
    """The draft model, if it is the drafter or one that is chosen for itself."""
    candidates = drafter.drafters if isinstance(drafter, ChosenDrafter) else (drafter,)
    return next((each for each in candidates if isinstance(each, ModelDrafter)), None)


def name_of_model(drafter: Drafter | None) -> str:
    """Its name among several."""
    return "model" if isinstance(drafter, ChosenDrafter) else ""
