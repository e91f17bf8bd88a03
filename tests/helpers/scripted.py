"""A scripted model in a scripted pipeline: the scheduler's oracle."""

from collections import deque

from pipeinfer_cli.scheduler.interfaces import DraftedBatch
from pipeinfer_cli.scheduler.kv_sequences import N_SEQUENCES
from pipeinfer_cli.scheduler.runs import KvKind, Mask, Result, RunStatus, StageTime

N_VOCAB = 11


def next_token(text):
    """The scripted model: a function of the whole text before."""
    return (7 * sum(text) + 3 * len(text) + text[-1] ** 2) % N_VOCAB


def drawn(text, mask=None):
    """What the scripted model says among the tokens that a mask allows."""
    token = next_token(text)
    while mask is not None and not mask.allows(token):
        token = (token + 1) % N_VOCAB
    return token


def plain(prompt, n_tokens, constraint=None):
    text = list(prompt)
    for _ in range(n_tokens):
        text.append(drawn(text, constraint and constraint.mask))
        constraint = constraint and constraint.after(text[-1])
    return text[len(prompt) :]


class ScriptedConstraint:
    """A grammar that allows a function of the whole text before: often a single token."""

    is_over = False

    def __init__(self, text):
        self.text = tuple(text)
        bits = (1 << N_VOCAB) - 1 & (2654435761 * (next_token(self.text) + 3) >> len(text) % 7)
        if sum(text) % 3 == 0 or not bits:
            bits = 1 << (sum(text) + 2 * len(text)) % N_VOCAB
        self.mask = Mask(bits.to_bytes(4, "little"))

    def after(self, token):
        assert self.mask.allows(token), "a forbidden token is drafted or drawn"
        return ScriptedConstraint((*self.text, token))


def take_runs(requests, now_s=0.0):
    """All runs that leave now."""
    return list(iter(lambda: requests.next_run(now_s), None))


def text_of(batch, branch):
    """What the drafter has to continue."""
    return (*batch.text[: batch.n_text], *branch)


def draft_next(scheduler, *candidates):
    """What follows the one node that the drafter is asked for; returns the text before."""
    batch = scheduler.take_batch()
    (branch,) = batch.branches
    scheduler.on_drafted(DraftedBatch(batch.epoch, (candidates,)))
    return text_of(batch, branch)


def stage_times(stage_s, n_stages=2, status=RunStatus.COMPLETED):
    """Equal stages that take so long for a run."""
    stage_us = round(1e6 * stage_s)
    return tuple(StageTime(i, status, 0, 0, stage_us) for i in range(n_stages))


class ScriptedDrafts:
    """Stands for drafters.thread.DraftThread, with everything that may go wrong on the way.

    Answers, right and wrong, sure and unsure, come when `answer` is called: also those of batches
    that are no longer wanted, and some of them twice.
    """

    def __init__(self, random):
        self.random = random
        self.batches = []  # that may still be answered
        self.drafted = []  # answers that the head has not taken yet
        self.epoch = 0

    def set_epoch(self, epoch):
        assert epoch >= self.epoch
        self.epoch = epoch

    def request(self, batch):
        self.set_epoch(batch.epoch)
        assert batch.n_text == len(batch.text)
        assert len(set(batch.branches)) == len(batch.branches) > 0
        self.batches.append(batch)

    def take(self):
        drafted, self.drafted = self.drafted, []
        return drafted

    def answer(self):
        batch = self.random.choice(self.batches)
        if self.random.random() < 0.9:
            self.batches.remove(batch)
        if batch.epoch < self.epoch and self.random.random() < 0.5:
            return  # given up
        candidates = tuple(self.candidates(batch, branch) for branch in batch.branches)
        took_us = self.random.choice([0, 1, 1000, 100_000])
        self.drafted.append(DraftedBatch(batch.epoch, candidates, took_us))

    def candidates(self, batch, branch):
        """Probabilities are anything from 0 to 1, and sometimes more than 1 together."""
        if self.random.randrange(10) == 0:
            return ()
        right = next_token(text_of(batch, branch))
        tokens = [right, *self.random.sample(range(N_VOCAB), self.random.randint(0, 4))]
        if self.random.randrange(4) == 0:
            tokens.reverse()
        tokens = list(dict.fromkeys(tokens))[: batch.n_candidates]
        best = self.random.choice([0.0, 0.05, 0.5, 1.0])
        share = self.random.choice([0.3, 0.9])
        return tuple((token, best * share**rank) for rank, token in enumerate(tokens))


class CountedText(list):
    """A text that counts how many of its tokens are read."""

    n_read = 0

    def __getitem__(self, key):
        found = list.__getitem__(self, key)
        self.n_read += len(found) if isinstance(key, slice) else 1
        return found


class ScriptedCache:
    """One stage's cells: (token, position, sequence ids) in the order of their indices, or None."""

    def __init__(self):
        self.cells = []

    def apply(self, op):
        first, last = op.pos_first, op.pos_last if op.pos_last >= 0 else 10**9
        if op.kind is KvKind.COMPACT:
            self.cells = [cell for cell in self.cells if cell]
        for index, cell in enumerate(self.cells):
            if op.kind is KvKind.COMPACT or cell is None or not first <= cell[1] < last:
                continue
            token, position, ids = cell
            if op.kind is KvKind.COPY and op.seq_src in ids:
                self.cells[index] = (token, position, ids | {op.seq_dst})
            elif op.kind is KvKind.REMOVE:
                ids = ids - {op.seq_src} if op.seq_src >= 0 else frozenset()
                self.cells[index] = (token, position, ids) if ids else None
        while self.cells and self.cells[-1] is None:
            self.cells.pop()

    def decode(self, tokens):
        """The tokens that each of them looks at, itself included."""
        self.cells += [(t.id, t.position, frozenset(t.seq_ids)) for t in tokens]
        return [self.seen_by(token) for token in tokens]

    def seen_by(self, token):
        seen = [
            cell
            for cell in self.cells
            if cell and token.seq_ids[0] in cell[2] and cell[1] <= token.position
        ]
        positions = [position for _, position, _ in seen]
        assert positions == list(range(token.position + 1)), "a cell is missing, or out of order"
        return [token for token, _, _ in seen]


class PositionPipeline:
    """Stands for engine.Engine: answers each run's wanted rows with position + 1, or never."""

    watched = False

    def __init__(self, *, is_silent=False):
        self.is_silent = is_silent
        self.in_flight = []
        self.cancelled = set()

    def submit(self, run):
        self.in_flight.append(run)

    def cancel(self, run_first, run_last):
        self.cancelled.update(range(run_first, run_last + 1))

    def wait(self, timeout_s):
        if self.is_silent or not self.in_flight:
            return None
        run = self.in_flight.pop(0)
        is_cancelled = run.run_id in self.cancelled
        rows = () if is_cancelled else tuple(self.row(t) for t in run.tokens if t.want)
        status = RunStatus.CANCELLED if is_cancelled else RunStatus.COMPLETED
        return Result(run_id=run.run_id, status=status, rows=rows, times=self.times(run, status))

    def row(self, token):
        return token.position + 1

    def times(self, run, status):
        return ()

    def nudge(self):
        pass


class ScriptedPipeline:
    """Stages with caches of their own; runs are answered in order, cancels heard at any time."""

    def __init__(self, hear=lambda n_heard, n_sent: n_sent, times=lambda n_tokens: ()):
        self.hear = hear  # how many cancels a stage has heard of when a run's turn comes
        self.times = times  # of the stages, for a run of that many tokens
        self.stages = [ScriptedCache(), ScriptedCache()]
        self.queue = deque()
        self.cancels = []  # as they were sent
        self.n_heard = [0, 0]  # of them, by stage
        self.last_run_id = 0
        self.most_cells = 0
        self.n_without_row = 0  # tokens submitted that want none: of prompts
        self.constrain = None  # a text's constraint

    def submit(self, run):
        assert run.run_id > self.last_run_id
        assert run.tokens
        assert all(0 <= i < N_SEQUENCES for token in run.tokens for i in token.seq_ids)
        self.last_run_id = run.run_id
        self.n_without_row += sum(not token.want for token in run.tokens)
        self.queue.append(run)

    def cancel(self, first, last):
        assert all(any(run.run_id == i for run in self.queue) for i in range(first, last + 1))
        self.cancels.append((first, last))

    def row(self, text, token):
        constraint = self.constrain and self.constrain(text)
        assert token.mask == (constraint and constraint.mask), "a mask is its text's"
        return drawn(text, token.mask)

    def answer(self):
        run = self.queue.popleft()
        rows, status = (), RunStatus.COMPLETED
        for index, stage in enumerate(self.stages):
            for op in run.kv_ops:
                stage.apply(op)
            self.n_heard[index] = n_heard = self.hear(self.n_heard[index], len(self.cancels))
            if any(first <= run.run_id <= last for first, last in self.cancels[:n_heard]):
                status = RunStatus.CANCELLED
            if status is RunStatus.COMPLETED:
                texts = zip(stage.decode(run.tokens), run.tokens, strict=True)
                rows = tuple(self.row(text, token) for text, token in texts if token.want)
                self.most_cells = max(self.most_cells, len(stage.cells))
        rows, times = (
            (rows, self.times(len(run.tokens))) if status is RunStatus.COMPLETED else ((), ())
        )
        return Result(run_id=run.run_id, status=status, rows=rows, times=times)
