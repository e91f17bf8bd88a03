"""Options whose meaning depends on the model: -c 0, -n -1, --seed -1, --stop-token, templates."""

import json
import re

import pytest

from pipeinfer_cli.models.gguf.info import read_model_info
from small_models import talking_llama
from support import check_output, mpiexec, pipeinfer, run, run_json

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return talking_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


def arguments(model, *more):
    return ["generate", "-m", str(model), "-t", "1", "--format", "json", *more]


def test_a_text_ends_where_the_model_was_trained_to(model):
    n_ctx = read_model_info(model).n_ctx_train
    options = ["-c", "0", "-n", "-1", "--ignore-eos", "--ranks", "1", "--strategy", "iterative"]
    found, said = run_json(pipeinfer(*arguments(model, *options, "-p", "hello")))
    assert len(found["tokens"]) == n_ctx - found["n_prompt"] + 1
    assert (found["finish_reason"], said) == ("length", "")


def test_all_ranks_draw_with_the_seed_of_the_head(model):
    options = ["--temp", "1", "-n", "40", "-c", "256", "--ignore-eos"]
    found, said = run_json(mpiexec(2, *arguments(model, *options, "--seed", "-1", "hello")))
    assert f"pipeinfer: note: --seed -1: the seed is {found['seed']}\n" in said
    options += ["--ranks", "1", "--seed", str(found["seed"])]
    again, said = run_json(pipeinfer(*arguments(model, *options, "hello")))
    assert (again["tokens"], said) == (found["tokens"], "")


def test_a_stop_token_ends_the_text(model):
    options = ["-n", "40", "-c", "256", "--ignore-eos", "--ranks", "1"]
    whole, _ = run_json(pipeinfer(*arguments(model, *options, "hello")))
    token = whole["tokens"][5]
    n = whole["tokens"].index(token) + 1
    cut, _ = run_json(pipeinfer(*arguments(model, *options, "--stop-token", str(token), "hello")))
    assert (cut["tokens"], cut["finish_reason"]) == (whole["tokens"][:n], "stop")
    assert whole["text"].startswith(cut["text"])
    refused = run(pipeinfer(*arguments(model, *options, "--stop-token", "999999", "hello")))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--stop-token 999999: ids are from 0 to" in refused.stderr


def test_a_chat_template_of_a_file_and_what_it_is_told(model, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }}{% if enable_thinking %} go{% endif %}")
    options = ["-n", "9", "-c", "256", "--ranks", "1"]
    chat = ["--chat", "--chat-template", str(template), "--reasoning", "on"]
    told, _ = run_json(pipeinfer(*arguments(model, *options, *chat, "-p", "hello")))
    plain, _ = run_json(pipeinfer(*arguments(model, *options, "hello go")))
    assert told["text"] == plain["text"]


def test_what_llama_cpp_has_more_is_said_before_the_text(model):
    options = ["-ngl", "99", "-fa", "on", "-b", "512", "-n", "4", "-c", "256", "--ranks", "2"]
    done = run(pipeinfer("generate", "-m", str(model), *options, "-e", "-p", "a\\nb"))
    assert done.returncode == 0
    notes = ["-b 512", "no effect of --gpu-layers"]  # this build has no backend with devices
    assert re.findall(r"note: (.+?):", done.stderr) == notes
    plain = check_output(pipeinfer(*arguments(model, *options[-6:], "--stats", "a\nb")))
    assert json.loads(plain)["text"].rstrip("\n") == done.stdout.rstrip("\n")


def test_a_plan_for_programs(model):
    plan, _ = run_json(pipeinfer(*arguments(model, "--plan", "--ranks", "2", "--seed", "3")))
    assert [rank["rank"] for rank in plan["ranks"]] == [0, 1]
    assert plan["ranks"][1]["layers"][1] == plan["n_layer"]


@pytest.mark.parametrize("way", ["ranks", "mpiexec"])
def test_the_head_alone_says_what_has_no_effect(way, model):
    n_ctx = str(read_model_info(model).n_ctx_train + 1)
    options = arguments(model, "-c", n_ctx, "-n", "4", "--seed", "3", "hello")
    command = {"mpiexec": mpiexec(2, *options), "ranks": pipeinfer(*options, "--ranks", "2")}[way]
    _, said = run_json(command)
    notes = [line for line in said.splitlines() if "note: " in line]
    assert len(notes) == 2
    assert f"-c {n_ctx}: the model was trained for" in notes[0]
    assert "no effect of --seed: the text is greedy without --temp" in notes[1]
