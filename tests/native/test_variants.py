"""Variants of ggml's CPU backend: which one is chosen, and that no other one is loaded."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.cpu import variants

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not variants.built(abi.lib_dir()), reason="a build with one backend"),
]
# What the kernel must list, for those that a processor of this machine's kind may lack.
FLAGS = {
    "sse42": {"sse4_2"},
    "haswell": {"avx2", "fma", "f16c", "bmi2"},
    "alderlake": {"avx2", "avx_vnni"},
    "skylakex": {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd"},
    "cascadelake": {"avx512f", "avx512vl", "avx512_vnni"},
    "zen4": {"avx512vl", "avx512_vnni", "avx512_bf16", "avx512vbmi"},
}
QEMU = shutil.which("qemu-x86_64")
REPORT = """
import json, os
from pipeinfer_cli.engine import abi, llama_cpp, loaded
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.errors import UserError
llama_cpp.capture_log()
{code}
files = [f for f in loaded.mapped_files(os.getpid()) if "libggml-cpu" in f]
code = variants.load() if abi.load().ggml_backend_reg_by_name(b"CPU") else None
print(json.dumps([code and code.variant, code and code.instructions, sorted(set(files))]))
"""


def process(code, command=(), cwd="/"):
    """A process that runs this code: not in our source folder, whose package it would import."""
    program = [*command, sys.executable, "-c", REPORT.format(code=code)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, cwd=cwd)


def report(*args, **more):
    """The variant, its instructions and the mapped backends of a process."""
    done = process(*args, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags are those of x86")
def test_the_usable_ones_are_those_whose_flags_the_kernel_lists():
    flags = set(variants._cpuinfo("flags").split())
    fitting = {name for name in variants.built(abi.lib_dir()) if FLAGS[name] <= flags}
    assert fitting == set(variants.usable()) != set()


@pytest.mark.parametrize("name", variants.usable())
def test_each_can_be_forced_and_none_uses_tiles(name):
    variant, instructions, _ = report(f"variants.load({name!r})")
    assert variant == name
    if name in FLAGS:
        assert ("AVX2 = 1" in instructions) == (name != "sse42")
    assert "AMX" not in instructions


TRY = """
try:
    variants.load({name})
except UserError as error:
    raise SystemExit(str(error))
"""


def refusal(code, command=()):
    """The line with which a process ends that runs this code."""
    done = process(code, command)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    return line


def test_a_process_has_one_variant():
    best = variants.usable()[0]
    for first in (f"variants.load({best!r})", "abi.load().llama_backend_init()"):
        again = f"variants.load()\nvariants.usable = lambda: ({best!r}, 'other')"
        said = refusal("\n".join([first, again, TRY.format(name="'other'")]))
        assert said == f"--cpu-variant other: this process computes with {best} already"


def test_what_lies_in_the_current_folder_is_not_loaded(tmp_path):
    """llama.cpp looks for backends when it starts, if there are none."""
    for path in abi.lib_dir().glob("libggml-cpu*.so"):
        shutil.copy(path, tmp_path / f"{path.stem}_other.so")
    variant, _, files = report("abi.load().llama_backend_init()", cwd=tmp_path)
    assert variant == variants.usable()[0]
    assert {Path(file).parent for file in files} == {abi.lib_dir().resolve()}


@pytest.mark.skipif(QEMU is None, reason="there is no qemu-x86_64")
def test_a_processor_without_avx_computes_with_sse42():
    variant, instructions, _ = report("variants.load()", [QEMU, "-cpu", "Nehalem"])
    assert variant == "sse42"
    assert "AVX" not in instructions


@pytest.mark.skipif(QEMU is None, reason="there is no qemu-x86_64")
def test_a_processor_below_all_is_told_so_in_one_line():
    said = refusal(TRY.format(name="None"), [QEMU, "-cpu", "Conroe"])
    assert "has none of the instructions that this build needs" in said
    assert "sse42" in said
