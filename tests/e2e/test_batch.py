"""`pipeinfer generate --prompts`, as people call it."""

import contextlib
import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from batches import SIGNALS, await_gone, count_lines, items, options, write_items
from pipeinfer_cli.engine.vocab import Vocab
from small_models import talking_llama
from support import check_output, mpiexec, pipeinfer, plain_decode, run
from terminal import run_on_terminal

pytestmark = pytest.mark.e2e

ENDLESS = {"prompt": "abc", "n_predict": 200}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return talking_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


def results(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_are_those_of_single_requests_in_order_and_bad_items_are_lines(model, tmp_path):
    made = [
        {"id": "a", "prompt": "hello", "n_predict": 5},
        {"prompt": "there"},
        "no item",
        {"id": 4.5, "prompt": "x" * 300},
        {"id": "é", "prompt": "hello", "n_predict": 9, "temp": 0.9, "seed": 7, "top_k": 0},
    ]
    prompts, output = write_items(tmp_path / "in.jsonl", made), tmp_path / "out.jsonl"
    command = options(model, prompts, output, "-n", "7")
    done = run(pipeinfer(*command, "--ranks", "2"), env={**os.environ, "SLURM_JOB_ID": "77"})
    assert done.returncode == 1
    assert done.stderr == (
        f"pipeinfer: error: 2 of 5 items failed: their lines in {output} say why\n"
    )
    found = results(output)
    assert [each["id"] for each in found] == ["a", 2, 3, 4.5, "é"]
    assert "not a JSON object" in found[2]["error"]
    assert "context 256" in found[3]["error"]
    sampling = ["--temp", "0.9", "--seed", "7", "--top-k", "0"]
    single = ["generate", "-m", str(model), "-c", "256", "-t", "1", "--ignore-eos", "--ranks", "1"]
    for index, more in ((0, ["-n", "5"]), (1, ["-n", "7"]), (4, ["-n", "9", *sampling])):
        prompt = made[index]["prompt"]
        alone = json.loads(check_output(pipeinfer(*single, *more, "--format", "json", prompt)))
        del alone["stats"]
        request = found[index].pop("request")
        assert request["n_predict"] == int(more[1])
        assert found[index] == {"id": made[index].get("id", 2), **alone, "job_id": "77"}

    again = run(pipeinfer(*command, "--ranks", "1"))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "it exists: give --resume" in again.stderr
    before = output.read_bytes()
    again = run(pipeinfer(*command, "--ranks", "1", "--resume"))
    assert (again.returncode, output.read_bytes()) == (1, before), again.stderr
    for more, changed, said in (
        ((), made[1:], "line 1 belongs to the item 'a', not 1"),
        (
            (),
            [{**made[0], "prompt": "hallo"}, *made[1:]],
            "line 1 of '*' was made with another prompt",
        ),
        (("-n", "8"), made, "line 2 of '*' was made with n_predict 7, now 8"),
        (("-m", "smollm2"), made, "line 1 of '*' was made with another model"),
        ((), [*made, made[0]], "the items 1 and 6 have the same id 'a'"),
    ):
        write_items(prompts, changed)
        again = run(pipeinfer(*command, "--ranks", "1", "--resume", *more))
        assert (again.returncode, again.stderr.count("\n")) == (2, 1), again.stderr
        assert output.read_bytes() == before
        assert said.replace("'*'", f"'{output}'") in again.stderr


@pytest.mark.parametrize("strategy", ["speculative", "pipeinfer"])
def test_requests_that_share_the_pipeline_write_the_same(model, tmp_path, strategy):
    made = items(18, 20)
    for index, item in enumerate(made):
        item["prompt"] = "all prompts begin like this " * (index % 2) + item["prompt"]
        item.update({"temp": 0.8 * (index % 3), "seed": index})
        item.update({"stop": ["e"]} if index % 4 == 0 else {})
    prompts = write_items(tmp_path / "in.jsonl", made)
    outputs = []
    for ranks, parallel in ((1, 1), (2, 5)):
        output = tmp_path / f"{parallel}.jsonl"
        more = ("--ranks", str(ranks), "--parallel", str(parallel), "--strategy", strategy)
        assert run(pipeinfer(*options(model, prompts, output, *more))).returncode == 1
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1]


def test_requests_of_a_derived_q2_k_write_as_the_unpatched_llama_cpp_does(model, tmp_path):
    derived = tmp_path / "q2_k.gguf"
    check_output(pipeinfer("models", "derive", str(model), "-o", str(derived), "--type", "Q2_K"))
    made = [{"prompt": f"{word} and some more words", "n_predict": 12} for word in "abcdef"]
    prompts = write_items(tmp_path / "in.jsonl", made)
    ids = [Vocab(derived).tokenize(item["prompt"]) for item in made]
    assert all(len(each) > 4 for each in ids), "of four tokens and more gemm would have other sums"
    request = {"model": str(derived), "prompts": ids, "n_predict": 12, "n_ctx": 256}
    expected = [answer["tokens"] for answer in plain_decode(request)]
    for parallel in ("1", "4"):
        output = tmp_path / f"{parallel}.jsonl"
        more = ("--ranks", "1", "--parallel", parallel, "--strategy", "pipeinfer")
        check_output(pipeinfer(*options(derived, prompts, output, *more)))
        assert [line["tokens"] for line in results(output)] == expected


def test_a_context_smaller_than_a_run(model, tmp_path):
    made = [{"id": 1, "prompt": "ab"}, {"id": 2, "prompt": "c"}]
    prompts = write_items(tmp_path / "in.jsonl", made)
    outputs = []
    for strategy in ("iterative", "speculative"):
        output = tmp_path / f"{strategy}.jsonl"
        more = ("--ranks", "1", "--parallel", "2", "--strategy", strategy, "-c", "8", "-n", "3")
        done = run(pipeinfer(*options(model, prompts, output, *more)))
        assert done.returncode == 0, done.stderr
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1]


def test_messages_and_stop_strings(model, tmp_path):
    question = "What is the capital of Italy?"
    first = [
        {"role": "user", "content": "Name a country."},
        {"role": "assistant", "content": "Italy."},
    ]
    made = [
        {"messages": [{"role": "user", "content": question}]},
        {"messages": [*first, {"role": "user", "content": question}], "stop": " "},
        {"prompt": question},
    ]
    prompts, output = write_items(tmp_path / "in.jsonl", made), tmp_path / "out.jsonl"
    command = ["generate", "--prompts", str(prompts), "-n", "30", "-c", "256", "-t", "1"]
    files = ["--output", str(output), "--ranks", "2"]
    done = run(pipeinfer(*command, *files, "-m", "smollm2", "--chat"))
    assert done.returncode == 0, done.stderr
    chat, stopped, asked = results(output)
    assert chat.pop("request") == asked.pop("request")
    single = ["generate", "-m", "smollm2", "--chat", "-n", "30", "-c", "256", "-t", "1"]
    alone = json.loads(
        check_output(pipeinfer(*single, "--format", "json", "--ranks", "1", question))
    )
    del alone["stats"]
    assert {"id": 1, **alone} == chat == {**asked, "id": 1}
    assert stopped["finish_reason"] == "stop"
    assert stopped["n_prompt"] > chat["n_prompt"]
    assert " " not in stopped["text"]

    done = run(pipeinfer(*command, "-m", str(model)))  # has no chat template
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert ["error" in line for line in lines] == [True, True, False]
    assert "no chat template" in lines[0]["error"]


def test_openai_lines_and_their_output_have_the_text_of_our_own(tmp_path):
    question = "What is the capital of Italy?"
    chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": question}]}]}
    made = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        {"id": "b", "messages": [{"role": "user", "content": question}]},
        {"custom_id": "c", "body": {"prompt": question, "max_tokens": 3, "n": 2}},
        {"custom_id": "d", "body": {"prompt": question, "max_tokens": 3}},
    ]
    prompts, output = write_items(tmp_path / "in.jsonl", made), tmp_path / "out.jsonl"
    command = ["generate", "-m", "smollm2", "--prompts", str(prompts), "-n", "12", "-c", "256"]
    more = ["-t", "1", "--ranks", "1", "--ignore-eos"]
    done = run(pipeinfer(*command, *more))
    own = [json.loads(line) for line in done.stdout.splitlines()]
    written = ["--output", str(output), "--format", "openai"]
    done = run(pipeinfer(*command, *more, *written, "--parallel", "2"))
    assert done.returncode == 1, done.stderr  # for n
    lines = results(output)
    assert [line["custom_id"] for line in lines] == ["a", "b", "c", "d"]
    bodies = [line["response"]["body"] for line in lines]
    texts = [bodies[i]["choices"][0]["message"]["content"] for i in (0, 1)]
    assert own[0]["text"] == own[1]["text"] == texts[0] == texts[1]
    assert bodies[3]["choices"][0]["text"] == own[3]["text"]
    assert bodies[3]["usage"]["completion_tokens"] == 3
    assert "n 2 is not supported" in lines[2]["error"]["message"]
    assert [each["request"] for each in own] == [each["request"] for each in lines]
    before = output.read_bytes()
    done = run(pipeinfer(*command, *more, *written, "--resume"))
    assert (done.returncode, output.read_bytes()) == (1, before), done.stderr


def test_items_from_stdin_and_results_on_stdout(model, tmp_path):
    text = write_items(tmp_path / "in.jsonl", items(5, 6)[1:]).read_text()
    command = ["generate", "-m", str(model), "--prompts", "-", "-c", "256", "-t", "1", "--stats"]
    done = run(pipeinfer(*command, "--ranks", "2", "--parallel", "2"), input=text)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == [f"item {index}" for index in range(1, 5)]
    assert all(line["stats"]["total_ms"] > 0 for line in lines)
    n_tokens = sum(len(line["tokens"]) for line in lines)
    summary, last = done.stderr.splitlines()
    assert f"4 items: {n_tokens} tokens in " in summary
    assert last == "pipeinfer: 4 items, none failed"


@pytest.mark.parametrize("parallel", ["1", "3"])
@pytest.mark.parametrize("way", ["alone", "ranks", "mpiexec"])
def test_an_item_is_answered_before_the_next_one_comes(way, parallel, model, tmp_path):
    made = [*items(5, 4)[1:], {"id": "item 2", "prompt": "again"}]
    lines = write_items(tmp_path / "in.jsonl", made).read_text().splitlines(keepends=True)
    more = ["-c", "256", "-t", "1", "--parallel", parallel]
    command = ["generate", "-m", str(model), "--prompts", "-", *more]
    launched = {
        "alone": pipeinfer(*command, "--ranks", "1"),
        "ranks": pipeinfer(*command, "--ranks", "2"),
        "mpiexec": mpiexec(2, *command),
    }[way]
    pipe = subprocess.PIPE
    with subprocess.Popen(launched, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as job:
        found = []
        for line in lines[:3]:
            job.stdin.write(line)
            job.stdin.flush()
            found.append(json.loads(job.stdout.readline()))
        rest, said = job.communicate("".join(lines[3:]), timeout=30)
    assert job.returncode == 1, said  # the last one has the id of another
    found += [json.loads(line) for line in rest.splitlines()]
    assert [each["id"] for each in found] == [each["id"] for each in made]
    assert "have the same id 'item 2'" in found[-1].pop("error")
    assert said.endswith("1 of 5 items failed: their lines in the output say why\n")
    at_once = run(pipeinfer(*command, "--ranks", "2"), input="".join(lines[:-1]))
    assert [json.loads(line) for line in at_once.stdout.splitlines()] == found[:-1]


@pytest.mark.parametrize("way", ["alone", "ranks"])
def test_a_signal_ends_the_wait_for_an_item(way, model, tmp_path):
    command = ["generate", "-m", str(model), "--prompts", "-", "-c", "256", "-t", "1"]
    launched = pipeinfer(*command, "--ranks", "1" if way == "alone" else "2")
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(launched, stdin=pipe, stdout=pipe, stderr=pipe, env=env) as job:
        job.stdin.write(b'{"prompt": "hello", "n_predict": 3}\n')
        job.stdin.flush()
        assert json.loads(job.stdout.readline())["id"] == 1
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=20) == 130
        assert job.stderr.read() == b"pipeinfer: error: interrupted by SIGINT\n"
    await_gone(tmp_path)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("way", ["ranks", "mpiexec"])
def test_a_signal_ends_a_batch_so_that_it_can_go_on(way, signum, model, tmp_path):
    made = [
        {"prompt": "a", "n_predict": 3},
        *({"prompt": "b", "n_predict": 240} for _ in range(99)),
    ]
    prompts, output = write_items(tmp_path / "in.jsonl", made), tmp_path / "out.jsonl"
    command = options(model, prompts, output)
    launched = {
        "mpiexec": mpiexec(2, *command, "--parallel", "2"),
        "ranks": pipeinfer(*command, "--ranks", "2"),
    }[way]
    with subprocess.Popen(
        launched, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as job:
        while count_lines(output) < 2:
            assert job.poll() is None, job.stderr.read()
        job.send_signal(signum)
        _, said = job.communicate(timeout=10)
    assert job.returncode == 75, said
    n_lines = count_lines(output)
    hint = f"{n_lines} of 100 items are in {output}: give --resume to continue"
    assert [line for line in said.splitlines() if line.startswith("pipeinfer: ")] == [
        f"pipeinfer: error: interrupted by {signum.name}: {hint}"
    ]
    assert output.read_bytes().endswith(b"\n")
    await_gone(tmp_path)


@pytest.mark.parametrize("delay_s", [0.4, 0.8, 1.2])
def test_a_signal_while_ranks_start_under_a_launcher_hangs_nobody(delay_s, model, tmp_path):
    """Each rank has it at another moment of its start; where MPI starts it cannot be handled.

    Then hydra's exit code stands for ours: SIGTERM's if a rank had no handler yet, and SIGKILL's
    if one rank had ended of it and hydra has killed the other before that could.
    """
    prompts = write_items(tmp_path / "in.jsonl", [ENDLESS] * 99)
    command = mpiexec(2, *options(model, prompts, tmp_path / "out.jsonl"))
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as job:
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(delay_s)
        job.send_signal(signal.SIGTERM)
        _, said = job.communicate(timeout=10)
    assert job.returncode in (75, signal.SIGTERM, signal.SIGKILL), said
    await_gone(tmp_path)


def test_a_full_disk_leaves_whole_lines(model, tmp_path):
    prompts = write_items(tmp_path / "in.jsonl", items(9, 20)[1:])
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    assert run(pipeinfer(*options(model, prompts, whole, "--ranks", "1"))).returncode == 0
    room = whole.stat().st_size // 2
    command = pipeinfer(*options(model, prompts, output, "--ranks", "1", "--resume"))
    full = run(command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    assert (full.returncode, full.stderr.count("\n")) == (1, 1), full.stderr
    assert f"cannot write to '{output}'" in full.stderr
    assert output.stat().st_size < room
    assert output.read_bytes().endswith(b"\n")
    assert run(command).returncode == 0
    assert output.read_bytes() == whole.read_bytes()


def test_a_full_stdout_is_one_line(model, tmp_path):
    prompts = write_items(tmp_path / "in.jsonl", items(3, 4)[1:])
    command = ["generate", "-m", str(model), "--prompts", str(prompts), "-c", "256", "-t", "1"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            pipeinfer(*command, "--ranks", "1"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write to stdout" in done.stderr


def test_a_terminal_shows_a_bar(model, tmp_path):
    prompts = write_items(tmp_path / "in.jsonl", items(12, 100)[1:])
    seen = run_on_terminal(
        pipeinfer(*options(model, prompts, tmp_path / "out.jsonl", "--ranks", "2"))
    )
    assert (seen.code, seen.lines) == (0, ["pipeinfer: 11 items, none failed"])
    assert any("of 11 items" in line and "tokens/s" in line for line in seen.frames)
    assert not seen.is_cursor_hidden


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_signal_keeps_the_text_of_a_request(ranks, model, tmp_path):
    command = ["generate", "-m", str(model), "-c", "2048", "-n", "2000", "-t", "1", "--ignore-eos"]
    with subprocess.Popen(
        pipeinfer(*command, "--ranks", ranks, "--format", "json", "--live", "hello"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as job:
        assert "no --live panel" in job.stderr.readline()  # it begins
        job.send_signal(signal.SIGUSR1)
        out, said = job.communicate(timeout=10)
    assert (job.returncode, said) == (138, "pipeinfer: error: interrupted by SIGUSR1\n")
    shown = json.loads(out)
    assert shown["finish_reason"] == "interrupted"
    assert shown["stats"]["n_generated"] == len(shown["tokens"]) < 2000
    await_gone(tmp_path)


@pytest.mark.parametrize("parallel", ["1", "3"])
def test_an_interrupted_batch_on_stdout_keeps_what_it_has(parallel, model, tmp_path):
    longer = {**ENDLESS, "n_predict": 2000}
    prompts = write_items(tmp_path / "in.jsonl", [ENDLESS, *[longer] * 9])
    command = ["generate", "-m", str(model), "--prompts", str(prompts), "-c", "2048", "-t", "1"]
    with subprocess.Popen(
        pipeinfer(*command, "--ranks", "2", "--ignore-eos", "--parallel", parallel),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        first = json.loads(job.stdout.readline())
        job.send_signal(signal.SIGTERM)
        out, said = job.communicate(timeout=10)
    assert (job.returncode, said) == (143, "pipeinfer: error: interrupted by SIGTERM\n")
    lines = [first, *map(json.loads, out.splitlines())]
    reasons = [line["finish_reason"] for line in lines]
    n_whole = reasons.count("length")
    assert reasons == ["length"] * n_whole + ["interrupted"] * (len(lines) - n_whole)
    # Alone, the next item may not have begun; beside others, it is in the midst of its tokens.
    assert int(parallel != "1") <= len(lines) - n_whole <= int(parallel)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--prompts", "in.jsonl", "--output", "no/out.jsonl"], "there is no such folder"),
        (["--prompts", "no.jsonl"], "cannot read the items"),
        (["--prompts", "in.jsonl", "a prompt"], "one of them"),
        (["--prompts", "in.jsonl", "--verify"], "--verify"),
        (["--prompts", "in.jsonl", "--plot", "a.svg"], "--plot"),
        (["--prompts", "in.jsonl", "--resume"], "--resume requires --output"),
        (["--parallel", "2", "a prompt"], "--parallel requires --prompts"),
        (["--prompts", "-"], "nothing on stdin"),
    ],
)
def test_bad_options_are_one_line(model, tmp_path, more, said):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    command = pipeinfer("generate", "-m", str(model), "--ranks", "1", *more)
    main, terminal = os.openpty()  # nothing is piped
    done = run(command, cwd=tmp_path, stdin=terminal)
    os.close(main)
    os.close(terminal)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
