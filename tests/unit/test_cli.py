"""The command line: options, one line per error, exit codes. The jobs are a stand-in."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import typer

from pipeinfer_cli.cli import application, main
from pipeinfer_cli.commands import jobs, start
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import Interrupted, RunError, UserError
from pipeinfer_cli.launch import environment, local, report
from pipeinfer_cli.scheduler.runs import SampleParams

pytestmark = pytest.mark.usefixtures("keep_signals")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[GenerateConfig, object]]:
    """What pipeinfer_cli.commands.jobs.run was called with; it returns 0."""
    found: list[tuple[GenerateConfig, object]] = []

    def run(config: GenerateConfig, comm: object) -> int:
        found.append((config, comm))
        return 0

    monkeypatch.setattr(jobs, "run", run)
    return found


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def test_one_rank_runs_in_this_process(
    calls: list[tuple[GenerateConfig, object]], model: str
) -> None:
    options = ["--ranks", "1", "-n", "5", "-c", "99", "-t", "2", "--ignore-eos", "--stats"]
    more = ["--format", "json", "-v", "--timeout", "1.5", "--layer-split", "3"]
    sample = ["--temp", "0.8", "--top-k", "9", "--top-p", "0.5", "--min-p", "0.1", "--seed", "3"]
    assert main.main(["generate", "-m", model, *options, *more, *sample, "hi"]) == 0
    expected = GenerateConfig(
        model=model,
        prompt=Prompt(text="hi"),
        n_predict=5,
        n_ctx=99,
        ranks=1,
        layer_split=(3.0,),
        threads=2,
        sample=SampleParams(temperature=0.8, top_k=9, top_p=0.5, min_p=0.1, seed=3),
        ignore_eos=True,
        stats=True,
        format="json",
        verbose=True,
        timeout_s=1.5,
    )
    ((config, comm),) = calls
    assert (replace(config, given=()), comm) == (expected, None)
    assert {"--ranks", "--layer-split", "--temp", "--min-p"} < set(config.given)


def test_a_plan_needs_no_prompt(calls: list[tuple[GenerateConfig, object]], model: str) -> None:
    assert main.main(["generate", "-m", model, "--plan", "--ranks", "1", "-t", "3"]) == 0
    ((config, _),) = calls
    assert (config.plan_only, config.threads, config.prompt) == (True, 3, Prompt())


def test_prompts_that_look_like_options(
    calls: list[tuple[GenerateConfig, object]], model: str
) -> None:
    assert main.main(["generate", "-m", model, "--ranks", "1", "--", "-n"]) == 0
    assert calls[0][0].prompt.text == "-n"


def test_several_ranks_are_spawned(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[local.Job] = []
    monkeypatch.setattr(local, "spawn", lambda job: spawned.append(job) or 7)
    launcher = environment.Launcher(mpiexec="mpiexec", family="mpich")
    monkeypatch.setattr(environment.Launcher, "of", lambda _: launcher)
    mpi = type("M", (), {"family": "none"})
    monkeypatch.setattr(start.mpi_choice, "choose", lambda: mpi)
    monkeypatch.setattr(start, "check_ranks", lambda model, ranks: None)
    assert main.main(["generate", "-m", model, "--layer-split", "1,2", ":"]) == 7
    config = pickle.loads(spawned[0].files[start.CONFIG_FILE])
    assert (spawned[0].ranks, config.ranks, config.prompt.text) == (2, 2, ":")
    assert ":" not in spawned[0].program  # launchers would take it for their own


def test_a_list_of_threads_says_how_many_ranks(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[GenerateConfig] = []
    monkeypatch.setattr(start, "alone", lambda config: started.append(config) or 0)
    assert main.main(["generate", "-m", model, "-t", "2,1,1", "hi"]) == 0
    assert (started[0].ranks, started[0].threads) == (3, (2, 1, 1))


def test_a_job_of_several_tasks_that_runs_alone_is_told(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(start, "alone", lambda config: 0)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert main.main(["generate", "-m", model, "--ranks", "4", "hi"]) == 0
    assert capsys.readouterr().err == ""
    assert main.main(["generate", "-m", model, "hi"]) == 0
    assert "4 tasks" in capsys.readouterr().err


def test_under_a_launcher_rank_0_resolves_later(
    calls: list[tuple[GenerateConfig, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    comm = object()
    mpi = ModuleType("pipeinfer_cli.launch.mpi")
    mpi.start = lambda: comm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeinfer_cli.launch.mpi", mpi)
    import pipeinfer_cli.launch

    monkeypatch.setattr(pipeinfer_cli.launch, "mpi", mpi, raising=False)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main.main(["generate", "-m", "not-there", "-f", "/no/file"]) == 0
    prompt = Prompt(file=Path("/no/file"))
    given = ("--model", "--file")
    assert calls == [(GenerateConfig(model="not-there", prompt=prompt, given=given), comm)]


def test_ranks_must_be_those_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main.main(["generate", "-m", "m", "--ranks", "3", "hi"]) == 2
    assert "--ranks 3, but a PMI launcher started 2" in capsys.readouterr().err


def test_only_rank_0_of_a_launcher_speaks(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(report, "SILENT_RANK_WAIT_S", 0.0)
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main.main(["generate", "-m", "m", "-n", "0", "hi"]) == 2
    assert capsys.readouterr().err == ""


def test_signals_while_an_error_is_said_change_nothing(capsys: Capture) -> None:
    class SlowError(UserError):
        def __str__(self) -> str:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            return "bad"

    assert main.guard(_raise(SlowError()), verbose=False) == 2
    assert capsys.readouterr().err == "pipeinfer: error: bad\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "missing command: see pipeinfer --help"),
        (["bogus"], "'bogus'"),
        (["generate"], "'-m' / '--model'"),
        (["generate", "-m", "m", "--bogus"], "--bogus"),
        (["generate", "-m", "m", "-n", "many"], "'many' is not a whole number"),
        (["generate", "-m", "m", "--timeout", "soon"], "'soon' is not a number"),
        (["generate", "-m", "m", "--timeout", "-1"], "--timeout -1"),
        (["generate", "-m", "m", "--temp", "-1"], "--temp -1"),
        (["generate", "-m", "m", "--seed", "x"], "'x' is not a whole number"),
        (["generate", "-m", "m", "-n"], "'-n'"),
        (["generate", "-m", "m", "-n", "0"], "-n/--n-predict 0"),
        (["generate", "-m", "m", "--format", "xml"], "'xml'"),
        (["generate", "-m", "m", "--layer-split", "1;2"], "'1;2'"),
        (["generate", "-m", "m", "--ranks", "2", "--layer-split", "1"], "1 weights for 2 ranks"),
        (["generate", "-m", "m", "-f", "f", "prompt"], "one of them"),
        (["generate", "-m", "m", "--prompts", "p", "-f", "f"], "one of them"),
        (["generate", "-m", "m", "--prompts", "p", "--resume"], "--resume requires --output"),
        (["generate", "-m", "m", "--prompts", "p", "--parallel", "0"], "--parallel 0"),
        (["generate", "-m", "m", "--output", "o", "hi"], "--output requires --prompts"),
        (["generate", "-m", "m", "-f", "/no/file"], "'/no/file'"),
        (["generate", "-m", "no.gguf", "hi"], "no.gguf"),
        (["generate", "-m", "nosuch", "hi"], "known name: give a GGUF path, or a name"),
        (["generate", "-m", "m", "a", "b"], "b"),
        (["models", "path", "../x"], "'../x' is not a model name"),
        (["models", "pull", "nosuch"], "pipeinfer models list has the names"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args: list[str], said: str, capsys: Capture) -> None:
    assert main.main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pipeinfer: error: ")
    assert err.count("\n") == 1
    assert said in err


def _raise(error: BaseException) -> Callable[[], int]:
    def call() -> int:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("bad\nvalue"), 2, "bad value"),
        (RunError("rank 1 died"), 1, "rank 1 died"),
        (KeyError("x"), 1, "unexpected KeyError: 'x' (-v shows where)"),
        (MemoryError(), 1, "unexpected MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted by SIGINT"),
        (Interrupted(signal.SIGTERM), 143, "interrupted by SIGTERM"),
        (Interrupted(signal.SIGUSR1, resume="go on"), 75, "interrupted by SIGUSR1: go on"),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, said: str, capsys: Capture
) -> None:
    assert main.guard(_raise(error), verbose=False) == code
    err = capsys.readouterr().err
    assert err.startswith(f"pipeinfer: error: {said}")
    assert err.count("\n") == 1


def test_verbose_shows_where_only_what_was_unexpected(capsys: Capture) -> None:
    main.guard(_raise(KeyError("x")), verbose=True)
    assert "Traceback" in capsys.readouterr().err
    main.guard(_raise(UserError("x")), verbose=True)
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_in_one_process(
    model: str, monkeypatch: pytest.MonkeyPatch, calls: object, capsys: Capture
) -> None:
    run_job = _raise(KeyboardInterrupt())
    monkeypatch.setattr(jobs, "run", lambda *_: run_job())
    assert main.main(["generate", "-m", model, "--ranks", "1", "hi"]) == 130
    assert capsys.readouterr().err == "pipeinfer: error: interrupted by SIGINT\n"


@pytest.mark.parametrize("name", application.COMMANDS)
def test_summaries_are_those_of_the_commands(name: str) -> None:
    command = application.COMMANDS[name]
    found = command.load()
    text = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found)
    assert text is not None and text.startswith(command.summary)
