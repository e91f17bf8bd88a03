"""Grammars and JSON schemas from the command line and in batches, as people use them."""

import json

import jsonschema
import pytest

from batches import write_items
from small_models import talking_llama
from support import check_output, pipeinfer, run

pytestmark = pytest.mark.e2e

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["ab", "cd", 7]},
        "more": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "kind", "more"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
WAYS = (
    ("--ranks", "1", "--strategy", "iterative"),
    ("--ranks", "2", "--strategy", "pipeinfer"),
    ("--ranks", "1", "--strategy", "speculative"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return talking_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


def generate(model, *more):
    return pipeinfer("generate", "-m", str(model), "-c", "256", "-t", "1", *more)


@pytest.mark.parametrize("temp", ["0", "1.2"])
def test_a_text_follows_a_schema_whatever_the_strategy(model, tmp_path, temp):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    options = ("--temp", temp, "--seed", "5", "--json-schema", str(file), "--format", "json", "abc")
    found = [json.loads(check_output(generate(model, *way, *options))) for way in WAYS]
    for each in found:
        assert (each["text"], each["tokens"]) == (found[0]["text"], found[0]["tokens"])
        assert each["finish_reason"] == "stop"
    jsonschema.validate(json.loads(found[0]["text"]), SCHEMA)


def test_a_grammar_and_verify(model):
    grammar = 'root ::= "yes " [a-c]{3} | "no"\n'
    done = run(generate(model, "--ranks", "1", "--grammar", grammar, "--verify", "abc"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == "no" or done.stdout.startswith("yes ")
    assert "as without speculation" in done.stderr


def test_items_of_a_batch_have_grammars_of_their_own(model, tmp_path):
    made = [
        {"custom_id": "a", "body": {"prompt": "abc", "response_format": FORMAT}},
        {"custom_id": "b", "body": {"prompt": "abc", "response_format": {"type": "text"}}},
        {"id": "c", "prompt": "abc", "json_schema": {"type": "array", "items": {"enum": [12]}}},
        {"id": "d", "prompt": "abc", "json_schema": {"properties": {"x": {"type": "int"}}}},
        {"id": "e", "prompt": "hello", "grammar": 'start: "one" | "two"', "temp": 2, "seed": 3},
        {"id": "f", "prompt": "hello"},
        {"id": "g", "prompt": "abc", "response_format": FORMAT, "ignore_eos": True},
        *({"id": i, "prompt": f"{i}", "response_format": FORMAT, "temp": 1.0} for i in range(3)),
    ]
    prompts, outputs = write_items(tmp_path / "in.jsonl", made), []
    for number, way in enumerate((WAYS[2], ("--parallel", "4", *WAYS[1]))):
        output = tmp_path / f"{number}.jsonl"
        more = ("--prompts", str(prompts), "--output", str(output), "-n", "200", *way)
        done = run(generate(model, "--json-schema", '{"enum": ["hi"]}', *more))
        assert done.returncode == 1, done.stderr
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1]
    found = {each["id"]: each for each in map(json.loads, outputs[0].splitlines())}
    for name in ("a", *range(3)):
        jsonschema.validate(json.loads(found[name]["text"]), SCHEMA)
    assert len(found["b"]["text"]) > 8, "a plain text"
    assert set(json.loads(found["c"]["text"])) <= {12}
    assert found["d"]["error"] == "json_schema: #/properties/x: Invalid type: int"
    assert found["e"]["text"] in ("one", "two")
    assert found["f"]["text"] == '"hi"', "as the command line says"
    assert "ignore_eos cannot be combined with response_format" in found["g"]["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json-schema", '{"type": "x"}'), "--json-schema: Invalid type: x"),
        (("--json-schema", '{"type": '), "--json-schema: not JSON: line 1, column 10"),
        (("--grammar", 'start: "a" b'), '--grammar: line 1, column 8: unknown name: "b"'),
        (("--grammar-file", "nothere"), "--grammar 'nothere': there is no such file"),
        (("-j", "{}", "--prompts", "-", "--ignore-eos"), "--ignore-eos cannot be combined"),
    ],
)
def test_a_wrong_grammar_is_said_before_anything_is_loaded(model, options, said):
    done = run(generate(model, *options, *(["abc"] * ("--prompts" not in options))))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"pipeinfer: error: {said}")
