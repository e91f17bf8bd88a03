"""Token ids of several prompts, one after the other, through one pipeline, in several ways.

Request: model, n_ctx, layer_split, prompts ([[ids]]), n_predict, maybe sample, schema (of JSON, for
the texts), n_vocab (SmolLM2's),
first_position (where texts begin: 0), has_states (of recurrent layers), and cases: each with maybe
strategy and drafter (of guessers.py), width (else what to draft is chosen by expected gain),
in_turn (a single stage takes turns with the drafter), draft_model, and truths ([[ids]]: the texts,
for drafters that know them). Prints per case the answers, what became of the drafts in all, and the
positions that are left.
"""

from itertools import islice
from pathlib import Path

from guessers import make_guesser
from placed import PlacedEngine
from ranks import N_BATCH, STATES, WAIT_S, main, on_head

from pipeinfer_cli.drafters.thread import DraftThread
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.runtime.grammar.source import GrammarSource
from pipeinfer_cli.runtime.text.token_stream import TokenStream
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.kv_sequences import SequencePool
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Policy
from pipeinfer_cli.scheduler.runs import Run
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler


class Decoder:
    def __init__(self, engine, run_ids, request, n_stages):
        self.engine, self.run_ids, self.request = engine, run_ids, request
        self.n_stages = n_stages
        self.states = STATES if request.get("has_states") else None
        self.pool = SequencePool(has_states=self.states is not None)
        self.start = None
        if "schema" in request:
            compiler = GrammarCompiler(Vocab(Path(request["model"])))
            self.start = compiler.start(GrammarSource.of_schema(request["schema"]))

    def decode(self, case, prompt, truth, knowledge):
        """Tokens, and the scheduler's counters."""
        strategy = case.get("strategy", "iterative")
        drafts, draft_config = None, None
        if strategy != "iterative":
            guesser = make_guesser(case["drafter"], {**self.request, **case}, prompt, truth)
            drafts = DraftThread(guesser, self.engine.nudge)
            width = case.get("width")
            is_auto = width is None
            draft_config = (
                DEFAULT_DRAFT if is_auto else DraftConfig(n_max=4, p_min=0.3, width=width)
            )
        policy = Policy.of(
            strategy,
            draft_config,
            n_stages=self.n_stages,
            n_batch=N_BATCH,
            shares_cores=case.get("in_turn", False),
            states=self.states,
        )
        n_max = self.request["n_predict"]
        scheduler = Scheduler(
            prompt,
            n_max=n_max,
            policy=policy,
            run_ids=self.run_ids,
            pool=self.pool,
            knowledge=knowledge,
            constraint=self.start,
        )
        auto = AutoSpeculation() if strategy == "auto" else None
        stream = TokenStream(self.engine, scheduler, timeout_s=WAIT_S, drafts=drafts, auto=auto)
        tokens = list(islice(stream, n_max))
        if drafts is not None:
            drafts.close()
        stream.finish()
        self.pool.drop(scheduler.close())
        assert self.start is None or not self.start.error_after(tokens)
        return tokens, scheduler.counters

    def decode_all(self, case):
        prompts = self.request["prompts"]
        truths = case.get("truths", [[]] * len(prompts))
        knowledge = Knowledge.of(None, n_stages=self.n_stages)  # texts learn from those before
        answers = [
            self.decode(case, prompt, truth, knowledge)
            for prompt, truth in zip(prompts, truths, strict=True)
        ]
        assert self.pool.n_used == 0
        self.engine.submit(Run(run_id=next(self.run_ids), kv_ops=self.pool.take_operations()))
        last = self.engine.wait(WAIT_S)
        assert last is not None or self.engine.wait(WAIT_S) is not None  # a drafter may have nudged
        return {
            "kv_positions": self.engine.kv_positions(),
            "tokens": [tokens for tokens, _ in answers],
            "n_drafted": sum(counters.n_drafted for _, counters in answers),
            "n_accepted": sum(counters.n_accepted for _, counters in answers),
            "n_cancelled": sum(counters.n_cancelled for _, counters in answers),
        }


def body(comm, request):
    n_stages = comm.size - (request["layer_split"][0] == 0)

    def head(engine, run_ids):
        placed = PlacedEngine(engine, request.get("first_position", 0))
        decoder = Decoder(placed, run_ids, request, n_stages)
        return [decoder.decode_all(case) for case in request["cases"]]

    return on_head(comm, request, head)


if __name__ == "__main__":
    main(body)
