"""The head's loops with scripted pipelines: every choice of time and draft is drawn."""

import math
from itertools import count

from pipeinfer_cli.scheduler.batcher import Batcher
from pipeinfer_cli.scheduler.exchange import Exchange, OneRequest
from pipeinfer_cli.scheduler.kv_sequences import SequencePool
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler
from scripted import ScriptedDrafts


class Game:
    """The head's loop with every choice of time, draft and probability drawn from data."""

    def __init__(
        self,
        random,
        pipeline,
        prompt,
        n_max,
        policy,
        *,
        pool=None,
        kept=None,
        knowledge=None,
        constraint=None,
    ):
        self.random, self.pipeline = random, pipeline
        run_ids = count(pipeline.last_run_id + 1)
        self.pool = pool or SequencePool()
        known = knowledge or Knowledge.of(
            policy.prior, n_stages=policy.n_stages, drafters=("model", "ngram")
        )
        self.ways = [None, *known.confidences]
        self.scheduler = Scheduler(
            prompt,
            n_max=n_max,
            policy=policy,
            run_ids=run_ids,
            pool=self.pool,
            knowledge=known,
            constraint=constraint,
        )
        if kept is not None:
            self.scheduler.reuse(kept)
            self.pool.drop(kept)
        self.drafts = ScriptedDrafts(random)
        self.exchange = Exchange(pipeline, OneRequest(self.scheduler, self.drafts))
        self.now_s = 0.0
        self.tokens = []
        self.n_max = n_max
        self.most_live = 0

    def play(self):
        while len(self.tokens) < self.n_max:
            self.turn()
            steps = [self.drafts.answer] * bool(self.drafts.batches)
            steps += [self.answer] * bool(self.pipeline.queue)
            if self.now_s < self.exchange.wake_s < math.inf:
                steps.append(self.wake)
            assert steps, "nothing is under way: the text would never end"
            self.random.choice(steps)()
            self.now_s += self.random.choice([0.0, 0.001, 0.1])
        self.scheduler.finish()
        self.exchange.submit(self.now_s)
        n_tokens = len(self.tokens)
        while not self.scheduler.is_idle:
            self.answer()
        assert len(self.tokens) == n_tokens
        assert self.scheduler.knowledge.pacer.leave_s == 0, "it waits for a run that is over"
        return self.tokens

    def close(self):
        """What the request leaves for the next one."""
        kept = self.scheduler.close()
        assert self.pool.n_used == (kept is not None)
        return kept

    def turn(self):
        if self.random.randrange(10) == 0:
            self.scheduler.speculate(self.random.choice(self.ways))
        self.exchange.take_drafts()
        self.exchange.submit(self.now_s)
        self.most_live = max(self.most_live, self.scheduler.n_live)
        assert self.pool.n_used <= 1 + self.scheduler.n_drafted, "a sequence id leaks"

    def answer(self):
        for _, tokens in self.exchange.on_result(self.pipeline.answer(), self.now_s):
            self.tokens += tokens

    def wake(self):
        self.now_s = self.exchange.wake_s


class Player:
    """The head's loop for several requests, with every choice of time and draft drawn."""

    def __init__(
        self,
        random,
        pipeline,
        *,
        n_stages,
        n_batch,
        n_parallel,
        pool=None,
        n_cached=0,
        leave_share=0.0,
    ):
        """`leave_share`: how often, in a turn, the client of a request leaves."""
        self.leave_share = leave_share
        self.left = set()  # keys of requests whose clients have left
        self.random, self.pipeline, self.n_parallel = random, pipeline, n_parallel
        self.pool = pool or SequencePool()
        self.knowledge = Knowledge.of(None, n_stages=n_stages)
        self.batcher = Batcher(
            self.pool,
            n_stages=n_stages,
            depth=n_stages + 1,
            n_batch=n_batch,
            run_ids=count(1),
            pacer=self.knowledge.pacer,
            n_cached=n_cached,
        )
        self.exchange = Exchange(self, self.batcher, open_drafts=self.open_drafts)
        self.requests, self.drafts, self.texts = {}, {}, {}
        self.n_wanted = {}
        self.n_merged = 0
        self.now_s = 0.0

    def play(self, jobs):
        """Jobs: [(prompt, n_max, policy)]; the texts in their order."""
        todo = list(enumerate(jobs))
        while todo or self.requests:
            while todo and len(self.requests) < self.n_parallel:
                self.admit(*todo.pop(0))
            self.exchange.take_drafts()
            self.exchange.submit(self.now_s)
            self.leave()
            self.step()
        self.batcher.close()
        self.exchange.submit(self.now_s)
        while not self.batcher.is_idle:
            self.answer()
        assert self.knowledge.pacer.leave_s == 0, "it waits for a run that is over"
        return [self.texts[key][: job[1]] for key, job in enumerate(jobs)]

    def step(self):
        steps = [self.answer] * bool(self.pipeline.queue)
        if drafting := [each for each in self.drafts.values() if each.batches]:
            steps.append(self.random.choice(drafting).answer)
        if self.now_s < self.exchange.wake_s < math.inf:
            steps.append(self.wake)
        if not self.requests and not steps:
            return
        assert steps, "nothing is under way: the texts would never end"
        self.random.choice(steps)()
        self.now_s += self.random.choice([0.0, 0.001, 0.1])

    def leave(self):
        for key in list(self.requests):
            if self.random.random() < self.leave_share:
                self.left.add(key)
                self.end(key)
        self.exchange.submit(self.now_s)

    def wake(self):
        self.now_s = self.exchange.wake_s

    def admit(self, key, job):
        prompt, n_max, policy = job
        scheduler = Scheduler(
            prompt,
            n_max=n_max,
            policy=policy,
            run_ids=count(1),
            pool=self.pool,
            knowledge=self.knowledge,
            constraint=self.pipeline.constrain and self.pipeline.constrain(prompt),
        )
        self.requests[key] = self.batcher.admit(key, scheduler)
        self.exchange.on_begin(self.requests[key])
        self.texts[key], self.n_wanted[key] = [], n_max

    def open_drafts(self, request):
        return self.drafts.setdefault(request.key, ScriptedDrafts(self.random))

    def submit(self, run):
        self.n_merged += len({token.seq_ids[0] for token in run.tokens}) > 1
        self.pipeline.submit(run)

    def cancel(self, run_first, run_last):
        self.pipeline.cancel(run_first, run_last)

    def answer(self):
        for request, tokens in self.exchange.on_result(self.pipeline.answer(), self.now_s):
            key = request.key
            self.texts[key] += tokens
            if request.scheduler.counters.n_decided >= self.n_wanted[key]:
                self.end(key)

    def end(self, key):
        self.batcher.end(self.requests.pop(key))
        self.drafts.pop(key, None)
