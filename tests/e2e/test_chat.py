"""Conversations with a real model: several turns, through pipes and on a terminal."""

import json
import subprocess

import pytest

from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.transcript import Transcript
from pipeinfer_cli.engine.vocab import Vocab
from support import check_output, mpiexec, pipeinfer, plain_decode, smollm2
from terminal import Person

pytestmark = pytest.mark.e2e

OPTIONS = ["-m", "smollm2", "-c", "512", "-t", "1", "-n", "24"]
SYSTEM = "You answer in one short sentence."
TURNS = [
    "What is the capital of Italy?",
    "And of France? Wörter: größer",
    "Which of the two is larger?",
]


def converse(command, lines):
    """What is answered to these lines, as JSON."""
    done = subprocess.run(
        command,
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def chat(*more):
    return ["chat", *OPTIONS, "--format", "json", *more]


def prompts_of(answers):
    """The prompts that lead to these answers to TURNS."""
    vocab = Vocab(smollm2())
    transcript = Transcript(vocab, ChatTemplate.of(vocab, "smollm2", system=SYSTEM))
    prompts = []
    for turn, answer in zip(TURNS, answers, strict=True):
        prompts.append(transcript.ask(turn))
        transcript.keep(answer["tokens"], answer["text"])
    return prompts


@pytest.fixture(scope="module")
def conversation():
    """Three turns on two local ranks, /reset, and the first turn again."""
    lines = [*TURNS, "", "/reset", "/nonsense", TURNS[0], "/quit", "never read"]
    return converse(pipeinfer(*chat("--ranks", "2", "--system", SYSTEM)), lines)


def test_every_answer_is_that_of_a_plain_decode_of_the_whole_conversation(conversation):
    *answers, again = conversation[0]
    prompts = prompts_of(answers)
    assert [answer["n_prompt"] for answer in answers] == [len(prompt) for prompt in prompts]
    request = {"model": str(smollm2()), "prompts": prompts, "n_predict": 24, "n_ctx": 512}
    for answer, plain in zip(answers, plain_decode(request), strict=True):
        assert answer["tokens"] == plain["tokens"][: len(answer["tokens"])]
        assert answer["finish_reason"] == ("stop" if len(answer["tokens"]) < 24 else "length")
    assert again["tokens"] == answers[0]["tokens"]
    assert again["n_prompt"] == answers[0]["n_prompt"]


def test_notices_are_on_stderr(conversation):
    reset, unknown = conversation[1].splitlines()
    assert "the conversation is forgotten" in reset
    assert "unknown command /nonsense" in unknown


def test_a_turn_reuses_what_the_turn_before_has_left_in_the_cache(conversation):
    *answers, again = conversation[0]
    prompts = prompts_of(answers)
    n_reused = [answer["stats"]["n_reused"] for answer in answers]
    assert n_reused[0] == 0
    for turn in (1, 2):
        # The last token of an answer was never fed, unless it was drafted. Accepted drafts may go
        # past the answer's end, and be what the template puts there: a line break.
        n_known = len(prompts[turn - 1]) + len(answers[turn - 1]["tokens"])
        n_past_end = answers[turn - 1]["stats"]["n_accepted"]
        n_most = min(n_known + n_past_end, len(prompts[turn]) - 1)
        assert n_known - 1 <= n_reused[turn] <= n_most
    # of the first prompt again: all but its last token, which is fed again
    assert again["stats"]["n_reused"] == len(prompts[0]) - 1


def test_under_a_launcher_rank_0_reads_stdin(conversation):
    command = mpiexec(2, *chat("--system", SYSTEM, "--strategy", "iterative"))
    answers, _ = converse(command, TURNS[:2])
    assert [a["tokens"] for a in answers] == [a["tokens"] for a in conversation[0][:2]]


def test_a_final_assistant_message_is_continued():
    command = ["generate", *OPTIONS, "--ranks", "1", "--prompts", "-", "--chat", "--system", SYSTEM]
    asked = {"role": "user", "content": TURNS[0]}
    (whole,), _ = converse(pipeinfer(*command), [json.dumps({"messages": [asked]})])
    n_begun = whole["text"].index(" ", 9)  # between two words, and so between two tokens
    begun, rest = whole["text"][:n_begun], whole["text"][n_begun:]
    begins = {"role": "assistant", "content": begun}
    (found,), _ = converse(pipeinfer(*command), [json.dumps({"messages": [asked, begins]})])
    assert found["n_prompt"] > whole["n_prompt"]
    assert found["text"] == rest
    assert whole["finish_reason"] == found["finish_reason"] == "stop"


def test_generate_answers_one_message_and_ends_before_a_stop_string():
    command = ["generate", *OPTIONS, "--ranks", "1", "--chat", "--system", SYSTEM, TURNS[0]]
    whole = check_output(pipeinfer(*command)).rstrip("\n")
    assert "Italy" in whole
    shown = json.loads(check_output(pipeinfer(*command, "--stop", "aly", "--format", "json")))
    assert shown["text"] == whole[: whole.index("aly")]
    assert shown["finish_reason"] == "stop"


@pytest.fixture(autouse=True)
def _no_history_of_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("PIPEINFER_CHAT_HISTORY", str(tmp_path / "history"))


def n_prompts(person):
    return sum(line == ">" or line.startswith("> ") for line in person.lines)


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_on_a_terminal(ranks, tmp_path):
    """Prompts and notices are on it, answers on stdout; Ctrl-C ends an answer, Ctrl-D the chat."""
    out = tmp_path / "out"
    command = ["chat", *OPTIONS, "--ranks", ranks, "--ignore-eos", "-n", "400"]
    person = Person(pipeinfer(*command), out)
    person.wait_until(lambda: n_prompts(person) == 1)
    person.type(b"Hellx\x7fo\r")  # edited
    person.wait_until(lambda: out.stat().st_size > 0)
    person.type(b"\x03")
    person.wait_until(lambda: n_prompts(person) == 2)
    assert "> Hello" in person.lines
    assert out.read_text().endswith("\n")
    n_bytes = out.stat().st_size
    person.type(b"\x1b[200~/reset\r\nis a message\x1b[201~\r")
    person.wait_until(lambda: out.stat().st_size > n_bytes)
    person.type(b"\x03")
    person.wait_until(lambda: n_prompts(person) == 3)
    assert not any("unknown command" in line or "forgotten" in line for line in person.lines)
    person.type(b"/reset\r")
    person.wait_until(lambda: n_prompts(person) == 4)
    assert "pipeinfer: the conversation is forgotten" in person.lines
    person.type(b"\x04")
    assert person.wait() == 0, person.lines


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_only_the_second_ctrl_c_at_the_prompt_ends(ranks, tmp_path):
    person = Person(pipeinfer("chat", *OPTIONS, "--ranks", ranks), tmp_path / "out")
    person.wait_until(lambda: n_prompts(person) == 1)
    person.type(b"\x03")
    person.wait_until(lambda: n_prompts(person) == 2)
    person.type(b"\x03")
    assert person.wait() == 130, person.lines
    assert not person.is_raw
    assert person.lines[-1] == "pipeinfer: error: interrupted by SIGINT"
    assert (tmp_path / "out").read_text() == ""
