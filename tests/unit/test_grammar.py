"""What grammars allow, over a small vocabulary; and what is said of wrong ones."""

import json
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_vocab import ByteVocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.runtime.grammar.source import (
    GrammarOptions,
    GrammarSource,
    of_response_format,
)

VOCAB = ByteVocab()
END = VOCAB.ends[0]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler():
    return GrammarCompiler(VOCAB)


def tokens_of(mask):
    return {token for token in range(VOCAB.n_tokens) if mask.allows(token)}


def walk(start, tokens):
    state = start
    for token in tokens:
        assert state.mask.allows(token), (VOCAB.text(tokens), token)
        state = state.after(token)
    return state


def lark(text):
    return GrammarSource.of_grammar(text)


def schema(value):
    return GrammarSource.of_schema(value)


def test_a_schemas_text_and_its_end(compiler):
    start = compiler.start(schema(SCHEMA))
    state = walk(start, VOCAB.tokenize('{"name": "the ab", "age": 12}'))
    assert tokens_of(state.mask) == {END}
    assert state.mask.only == END
    over = state.after(END)
    assert over.is_over and over.mask is None
    assert start.error_after([*VOCAB.tokenize('{"name": "", "age": 1}'), END]) == ""
    assert tokens_of(start.mask) == {ord("{"), VOCAB.tokenize('{"')[0]}
    half = walk(start, VOCAB.tokenize('{"name"'))
    assert END not in tokens_of(half.mask)


def test_states_are_values_whatever_was_asked_before(compiler):
    """Branches in any order have the masks that a matcher of their own would say."""
    source, drawn = schema(SCHEMA), random.Random(1)
    start = compiler.start(source)
    states, paths = [start], {start: ()}
    for _ in range(400):
        state = drawn.choice(states[-40:])
        if state.mask is None:
            continue
        token = drawn.choice(sorted(tokens_of(state.mask)))
        child = state.after(token)
        states.append(child)
        paths[child] = (*paths[state], token)
    drawn.shuffle(states)
    assert max(map(len, paths.values())) > 20
    for state in states[:60]:
        alone = walk(compiler.start(source), paths[state])
        assert (state.mask, state.is_over) == (alone.mask, alone.is_over)


def test_equal_masks_are_one(compiler):
    state = walk(compiler.start(schema({"type": "string"})), VOCAB.tokenize('"ab'))
    again = state.after(ord("x"))
    assert state.mask is again.mask


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        (lark('start: "a"+ "b"?'), ["a", "aab"], ["b", "ba"]),
        (lark('root ::= "yes" | "no" [0-9]+\n'), ["yes", "no17"], ["maybe", "no!"]),
        (lark("start: /[a-c]{2,3}/"), ["ab", "abc"], ["d"]),
        (schema(True), ["12", '{"x": [1, null]}'], ["nil"]),
        (of_response_format({"type": "json_object"}), ["{}", '{"a": 1}'], ["1", "["]),
    ],
    ids=str,
)
def test_texts(compiler, source, good, bad):
    for text in good:
        state = walk(compiler.start(source), list(text.encode()))
        assert state.mask.allows(END), text
    for text in bad:
        state = compiler.start(source)
        for token in text.encode():
            if not state.mask.allows(token):
                break
            state = state.after(token)
        else:
            raise AssertionError(text)


@settings(max_examples=3 * settings.default.max_examples)
@given(
    st.recursive(
        st.sampled_from([{"type": "integer"}, {"type": "boolean"}, {"enum": ["ab", "the", 7]}]),
        lambda inner: st.one_of(
            st.builds(
                lambda names, parts, n: {
                    "type": "object",
                    "properties": dict(zip(names, parts, strict=False)),
                    "required": names[: min(n, len(parts))],
                    "additionalProperties": False,
                },
                st.lists(st.sampled_from(["a", "name", "é", "x y"]), unique=True, max_size=3),
                st.lists(inner, max_size=3),
                st.integers(0, 3),
            ),
            st.builds(
                lambda part, n: {"type": "array", "items": part, "maxItems": n},
                inner,
                st.integers(0, 3),
            ),
        ),
        max_leaves=5,
    ),
    st.integers(0, 2**32),
)
def test_random_walks_through_random_schemas_end_in_valid_json(wanted, seed):
    import jsonschema

    drawn, tokens = random.Random(seed), []
    state = COMPILER.start(schema(wanted))
    while not state.is_over:
        allowed = sorted(tokens_of(state.mask))
        # ends soon: digits and spaces could go on for ever
        short = [token for token in allowed if token == END or len(tokens) < 40]
        structure = [token for token in allowed if VOCAB.piece(token)[:1] in b']}",']
        tokens.append(drawn.choice(short or structure or allowed))
        state = state.after(tokens[-1])
        assert len(tokens) < 400
    jsonschema.validate(json.loads(VOCAB.text(tokens)), wanted)


COMPILER = GrammarCompiler(VOCAB)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lark('start: "a" foo'), 'grammar: line 1, column 8: unknown name: "foo"'),
        (lark('start: "b"\n "a'), "grammar: line 2, column 4: lexer error"),
        (lark("start: /a(b/"), 'line 1, column 8: invalid regex "a(b" (in regex): regex parse'),
        (lark('root ::= "a" foo'), "grammar: Rule 'foo' not found"),
        (lark('root ::= "a\n'), "grammar: Unexpected end of input at line 2"),
        (schema({"type": "foo"}), "json_schema: Invalid type: foo"),
        (
            schema({"properties": {"a/b": {"anyOf": [{"type": "int"}]}}}),
            "json_schema: #/properties/a~1b/anyOf/0: Invalid type: int",
        ),
        (schema({"$ref": "file:///etc/passwd"}), "does not fetch resources"),
        (schema({"items": {"$ref": "#/$defs/x"}}), "#/items: Pointer '/$defs/x' does not exist"),
        (schema(False), "json_schema false: it allows nothing"),
        (schema({"type": "string", "pattern": "(a"}), "regex parse error: (a error: unclosed"),
    ],
    ids=str,
)
def test_wrong_grammars_are_refused_in_one_line_with_the_place(compiler, source, said):
    with pytest.raises(UserError) as caught:
        compiler.start(source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grammar_that_the_vocabulary_cannot_spell_ends_and_says_so():
    vocab = ByteVocab(words=[], n_ends=1)
    vocab._texts[ord("b")] = b"a"  # no token has a b
    start = GrammarCompiler(vocab).start(lark('start: "a" "b" | "c"'))
    state = start.after(ord("a"))
    assert state.mask.only == vocab.ends[0]
    assert "no token that the grammar" in start.error_after([ord("a"), vocab.ends[0]])
    other = start.after(ord("c"))
    assert other.mask.only == vocab.ends[0], "the matcher goes on with other texts"
    assert start.error_after([ord("c"), vocab.ends[0]]) == ""


def test_control_tokens_may_end_a_text_and_others_are_text(compiler):
    stop = END + 1
    state = walk(compiler.start(lark('start: "a"'), [stop, ord("a")]), [ord("a")])
    assert tokens_of(state.mask) == {END, stop}
    assert state.after(stop).is_over and not state.is_over
    with pytest.raises(UserError, match="lacks an end-of-generation token"):
        GrammarCompiler(ByteVocab(n_ends=0)).start(lark('start: "a"'))


def test_without_llguidance_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"needs the package llguidance: pip install 'pipeinfer\["):
        GrammarCompiler(VOCAB).start(lark('start: "a"'))


def test_options_are_texts_or_files(tmp_path):
    file = tmp_path / "g.gbnf"
    file.write_text('root ::= "a"\n')
    source = GrammarOptions(grammar=str(file)).read().source
    assert (source.form, source.text) == ("gbnf", 'root ::= "a"\n')
    assert str(file) in source.name
    source = GrammarOptions(grammar='start: "a" * 300').read().source
    assert (source.form, source.name) == ("lark", "--grammar")
    read = GrammarOptions(json_schema='{"type": "array"}').read()
    assert json.loads(read.source.text) == {"type": "array"}
    assert read.read() is read
    assert GrammarOptions().read().source is None
    file.write_text("[1]")
    for options, said in (
        ({"grammar": "nothere.gbnf"}, "--grammar 'nothere.gbnf': there is no such file, and it is"),
        ({"json_schema": "nothere"}, "--json-schema 'nothere': there is no such file, and it is"),
        ({"json_schema": '{"a": }'}, "--json-schema: not JSON: line 1, column 7: Expecting value"),
        ({"json_schema": "{" * 5000}, "not JSON"),
        ({"json_schema": str(file)}, "give a JSON schema, an object"),
        ({"grammar": str(tmp_path)}, "Is a directory"),
        ({"grammar": ""}, "--grammar '': "),
    ):
        with pytest.raises(UserError) as caught:
            GrammarOptions(**options).read()
        assert said in str(caught.value)
    with pytest.raises(UserError, match="--grammar cannot be combined with --json-schema"):
        GrammarOptions(grammar="a", json_schema="b")


def test_response_formats():
    assert of_response_format({"type": "text"}) is None
    named = {"name": "x", "strict": True, "schema": SCHEMA}
    source = of_response_format({"type": "json_schema", "json_schema": named})
    assert json.loads(source.text) == SCHEMA
    source = of_response_format({"type": "json_object", "schema": SCHEMA})
    assert json.loads(source.text) == SCHEMA
    for value, said in (
        ("json", 'give an object like {"type": "json_object"}'),
        ({"type": "yaml"}, "response_format 'yaml': give text, json_object or json_schema"),
        ({"type": "json_schema"}, "json_schema needs an object with a schema"),
        ({"type": "json_schema", "json_schema": {"schema": 7}}, "schema 7: give a JSON schema"),
    ):
        with pytest.raises(UserError) as caught:
            of_response_format(value)
        assert said in str(caught.value)
