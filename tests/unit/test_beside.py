"""The benchmark beside llama.cpp: what it reads from programs, and what it makes of samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from beside.contest import OURS, THEIRS, Contender, Contest, Measurement, common_bytes, whole_tokens
from beside.ours import Ours
from beside.process import BenchmarkError
from beside.tools import Tools, check

PERF = """\
0.01 I common_perf_print:    sampling time =      200.00 ms
0.01 I common_perf_print: prompt eval time =      39.56 ms /    13 tokens (    3.04 ms per token)
0.01 I common_perf_print:        eval time =     800.00 ms /    50 runs   (   16.00 ms per token)
"""
SPECULATIVE = """\
0.02 I decoded   68 tokens in    2.000 seconds, speed:   35.065 t/s
0.02 I n_predict = 68
0.02 I n_drafted = 51
0.02 I n_accept  = 34
"""


def fake_program(folder: Path, name: str, out: str, err: str, code: int = 0) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{out}\nE\ncat >&2 <<'E'\n{err}E\nexit {code}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(folder=tmp_path, model=tmp_path / "model.gguf", n_threads=1)


def test_speed_counts_evaluation_and_sampling(tools: Tools) -> None:
    fake_program(tools.folder, "llama-completion", " there was", PERF)
    sample = tools.speed("Once", 51)
    assert sample.value == 50
    assert sample.text == " there was\n"
    assert sample.note == "62.50 without sampling"


def test_prompt_speed_is_that_of_its_own_line(tools: Tools) -> None:
    fake_program(tools.folder, "llama-completion", "", PERF)
    assert tools.prompt_speed("Once").value == pytest.approx(13000 / 39.56)


def test_speculative_text_is_what_follows_the_prompt(tools: Tools) -> None:
    fake_program(tools.folder, "llama-speculative-simple", "\nOnce upon a time", SPECULATIVE)
    sample = tools.draft_speed(Path("draft.gguf"), "Once", 67)
    assert (sample.value, sample.note) == (34, "34/51 accepted")
    assert sample.text == " upon a time\n"


def test_unknown_output_is_an_error_that_names_the_program(tools: Tools) -> None:
    fake_program(tools.folder, "llama-completion", "hello", "something else\n")
    with pytest.raises(BenchmarkError, match=r"llama-completion .*nothing printed matches"):
        tools.speed("Once", 51)


def test_failed_program_is_an_error_with_its_last_words(tools: Tools) -> None:
    fake_program(tools.folder, "llama-completion", "", "no such model\n", code=3)
    with pytest.raises(BenchmarkError, match=r"exit code 3\nno such model"):
        tools.speed("Once", 51)


def test_missing_programs_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"has no llama-completion: run `make upstream-tools`"):
        check(tmp_path)


def test_our_batch_speed_is_that_of_the_summary(tmp_path: Path) -> None:
    fake_program(tmp_path, "pipeinfer", "", "2 of 24 items, 9.0 tokens/s, 1.00 items/s\n24 items: "
                 "768 tokens in 12.0 s, 64.0 tokens/s, 2.00 items/s\n")  # fmt: skip
    ours = Ours(program=str(tmp_path / "pipeinfer"), model=tmp_path, n_threads=1)
    assert ours.batch_speed(["a", "b"], 32, 4).value == 64


def scripted(name: str, side: str, values: list[float], log: list[str]) -> Contender:
    remaining = iter(values)

    def measure() -> Measurement:
        log.append(name)
        return Measurement(value=next(remaining))

    return Contender(name=name, side=side, measure=measure)


def test_contenders_take_turns_in_rotating_order() -> None:
    log: list[str] = []
    contest = Contest(
        case="case",
        unit="tokens/s",
        contenders=[
            scripted("a", OURS, [3, 8, 5], log),
            scripted("b", THEIRS, [2, 4, 5], log),
        ],
        reference="b",
    )
    contest.hold(3)
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert contest.ratio("a", "b") == 1.5


def test_only_the_fastest_of_a_heat_and_who_always_competes_stay() -> None:
    log: list[str] = []
    contenders = [
        scripted("auto", OURS, [1, 1], log),
        scripted("slow", OURS, [2], log),
        scripted("fast", OURS, [4, 4], log),
        scripted("plain", THEIRS, [3], log),
        scripted("tuned", THEIRS, [5, 5], log),
    ]
    contenders[0].always = True
    contest = Contest(
        case="case", unit="tokens/s", contenders=contenders, reference="plain", n_heat=1
    )
    contest.hold(1)
    assert [each.name for each in contest.contenders] == ["auto", "fast", "tuned"]
    assert contest.reference == "tuned"
    assert (contest.best(OURS), contest.best(THEIRS)) == ("fast", "tuned")


def test_a_check_is_never_the_best_of_its_side() -> None:
    contenders = [scripted("a", OURS, [1], []), scripted("b", THEIRS, [2], [])]
    check = scripted("check", THEIRS, [3], [])
    check.is_check = True
    contest = Contest(case="case", unit="tokens/s", contenders=[*contenders, check], reference="b")
    contest.hold(1)
    assert contest.best(THEIRS) == "b"


def test_ratios_are_above_one_for_the_better_where_less_is_better() -> None:
    contenders = [scripted("a", OURS, [2.0], []), scripted("b", THEIRS, [3.0], [])]
    contest = Contest(
        case="case", unit="s", contenders=contenders, reference="b", lower_is_better=True
    )
    contest.hold(1)
    assert contest.ratio("a", "b") == 1.5
    assert contest.best(OURS) == "a"


@pytest.mark.parametrize(("n_bytes", "n_tokens"), [(0, 0), (2, 0), (3, 1), (4, 1), (5, 3), (99, 3)])
def test_tokens_within_some_bytes(n_bytes: int, n_tokens: int) -> None:
    assert whole_tokens([3, 2, 0], n_bytes) == n_tokens


def test_common_bytes_of_two_texts() -> None:
    assert common_bytes(b"abcd", b"abxd") == 2
    assert common_bytes(b"ab", b"abcd") == 2
