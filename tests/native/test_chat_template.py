"""Chat templates of real vocabularies, rendered in a sandbox, as token ids."""

import dataclasses

import pytest

from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.chat.template import ChatTemplate, chat_formatter
from pipeinfer_cli.commands.chat.transcript import Transcript, message_prompt
from pipeinfer_cli.commands.generate_config import Prompt
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from support import smollm2, tiny_model

pytestmark = pytest.mark.native

CONFIG = ChatConfig(model="smollm2", prompt=Prompt(text=""), chat=True)


@pytest.fixture(scope="module")
def vocab():
    return Vocab(smollm2())


def spell(vocab, tokens):
    return b"".join(vocab.piece(token, is_special=True) for token in tokens).decode()


def test_the_models_own_template(vocab):
    config = dataclasses.replace(CONFIG, system="Answer in one word.")
    prompt = message_prompt(config, vocab, "What is the capital of Italy?")
    text = (
        "<|im_start|>system\nAnswer in one word.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of Italy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert spell(vocab, prompt) == text
    assert prompt == vocab.tokenize(text)


def test_turns_go_on_where_the_last_ended(vocab):
    transcript = Transcript(vocab, ChatTemplate.of(vocab, "smollm2", system=None))
    before = []
    for turn in range(3):
        prompt = transcript.ask(f"Question {turn}?")
        assert prompt[: len(before)] == before
        # in other tokens than the tokenizer's own
        answer = [vocab.tokenize(letter, is_whole=False)[0] for letter in "An answer."]
        end = vocab.eos
        assert vocab.ends_generation(end)
        transcript.keep([*answer, end], "An answer.")
        before = [*prompt, *answer, end]
    assert spell(vocab, before).count("An answer.") == 3


def test_a_model_without_a_template_is_refused(tmp_path):
    model = tiny_model(tmp_path / "base.gguf")
    with pytest.raises(UserError, match=r"base.gguf' has no chat template .*without --chat"):
        ChatTemplate.of(FakeVocab(None), str(model), system=None)


class FakeVocab:
    bos = eos = None
    special_tokens = {"unk_token": "<u>"}  # noqa: RUF012

    def __init__(self, source):
        self.chat_template = source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for m in %}", "chat template of 'm.gguf' is damaged"),
        ("{{ nothing.at.all }}", "chat template fails"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ raise_exception('Conversation roles must alternate') }}", "roles must alternate"),
    ],
)
def test_damaged_and_hostile_templates(source, message):
    with pytest.raises(UserError, match=message):
        ChatTemplate.of(FakeVocab(source), "m.gguf", system=None)


def test_what_templates_expect_is_there():
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
        "{{ m.content | trim }}{% endfor %}{% if strftime_now('%Y') | int > 2000 %}!{% endif %}"
        "{% if add_generation_prompt %}:{% endif %}{{ eos_token }}"
    )
    render = chat_formatter(source, {"bos_token": "<b>", "eos_token": "<e>"})
    assert render([{"role": "user", "content": " hi\n"}]) == "<b>hi!:<e>"


@pytest.mark.parametrize(
    "name", ["CHATML", "MISTRAL_INSTRUCT", "MIXTRAL_INSTRUCT", "LLAMA3_INSTRUCT"]
)
@pytest.mark.parametrize("is_told", [False, True])
def test_templates_of_well_known_models(vocab, name, is_told):
    from llama_cpp import llama_chat_format  # the vocabulary has found it its library

    source = getattr(llama_chat_format, f"{name}_CHAT_TEMPLATE")
    system = "Be brief." if is_told else None
    template = ChatTemplate(
        chat_formatter(source, {"bos_token": "<|endoftext|>", "eos_token": "<e>"}), system=system
    )
    assert bool(template.note) == (is_told and "MI" in name)  # Mistral's know no system role
    transcript = Transcript(vocab, template)
    answer = vocab.tokenize("Yes, an answer.\n", is_whole=False)
    messages = []
    for turn in ("One?", "Two?", "Three?"):
        prompt = transcript.ask(turn)
        transcript.keep([*answer, vocab.eos], "Yes, an answer.\n")
        messages.append({"role": "user", "content": turn})
        assert spell(vocab, prompt) == template.text(messages)
        assert ("Be brief." in spell(vocab, prompt)) == is_told
        assert prompt.count(vocab.tokenize("<|endoftext|>", is_whole=False)[0]) == (
            name != "CHATML"
        )
        messages.append({"role": "assistant", "content": "Yes, an answer.\n"})
