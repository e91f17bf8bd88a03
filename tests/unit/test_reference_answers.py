"""The cache of the oracle's answers: asked once, and again when anything has changed."""

import os

import pytest

import reference_answers


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A function that asks through the cache and says how often the oracle was asked in all."""
    monkeypatch.setattr(reference_answers, "FOLDER", tmp_path / "oracles")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libllama.so").write_bytes(b"library")
    (tmp_path / "model.gguf").write_bytes(b"model")
    calls = []

    def ask(**changes):
        request = {"model": str(tmp_path / "model.gguf"), "prompts": [[1]], **changes}

        def oracle():
            calls.append(request)
            return [{"tokens": [len(calls)]}]

        found = reference_answers.answer(request, tmp_path / "lib", oracle)
        return found[0]["tokens"][0]

    return ask


def test_the_same_is_asked_once(asked, tmp_path):
    assert [asked(), asked()] == [1, 1]
    (tmp_path / "model.gguf").rename(tmp_path / "other.gguf")
    assert asked(model=str(tmp_path / "other.gguf")) == 1, "its contents count, not its name"
    assert [path.suffix for path in (tmp_path / "oracles").iterdir()] == [".json"]


@pytest.mark.parametrize("name", ["model.gguf", "lib/libllama.so", "lib/libggml-cpu.so"])
def test_a_changed_file_is_another_question(asked, tmp_path, name):
    assert asked() == 1
    (tmp_path / name).write_bytes(b"changed")
    assert [asked(), asked()] == [2, 2]


def test_a_changed_adapter_is_another_question(asked, tmp_path):
    path = tmp_path / "lora.gguf"
    path.write_bytes(b"adapter")
    adapters = [[str(path), 0.5]]
    assert [asked(), asked(adapters=adapters), asked(adapters=[[str(path), 1]])] == [1, 2, 3]
    path.rename(tmp_path / "moved.gguf")
    assert asked(adapters=[[str(tmp_path / "moved.gguf"), 0.5]]) == 2
    path.write_bytes(b"changed")
    assert asked(adapters=adapters) == 4


def test_a_changed_request_program_or_machine_is_another_question(asked, monkeypatch):
    assert [asked(), asked(prompts=[[2]])] == [1, 2]
    monkeypatch.setattr(reference_answers, "PROGRAMS", ("oracle.py",))
    assert asked() == 3
    monkeypatch.setattr(reference_answers, "cpu", lambda: "another")
    assert asked() == 4


def test_a_damaged_answer_is_asked_again(asked, tmp_path):
    asked()
    (path,) = (tmp_path / "oracles").iterdir()
    os.truncate(path, 3)
    assert [asked(), asked()] == [2, 2]


def test_an_error_is_not_kept(asked, tmp_path, monkeypatch):
    def fail():
        raise AssertionError

    request = {"model": str(tmp_path / "model.gguf"), "prompts": [[1]]}
    with pytest.raises(AssertionError):
        reference_answers.answer(request, tmp_path / "lib", fail)
    assert asked() == 1


def test_a_model_in_several_files_is_always_asked(asked, tmp_path):
    part = str(tmp_path / "m-00001-of-00002.gguf")
    assert [asked(model=part), asked(model=part)] == [1, 2]
