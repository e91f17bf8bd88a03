"""A GGUF as large as Qwen3-235B-A22B in Q4_K_M, in shape: its tensors are holes of a sparse file.

    make large LARGE=/tmp/large      # what show, --plan, shard and loading some layers cost

The header has what the real one has: 94 layers of 128 experts, 151,936 tokens with merges, and the
types that llama.cpp's quantization chooses. All weights are zero. It takes the disk a few
megabytes, as do its shards.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import gguf
import numpy as np

from raw_gguf import byte_characters

Type = gguf.GGMLQuantizationType

N_LAYER, N_EMBD, N_CTX = 94, 4096, 40960
N_HEAD, N_HEAD_KV, HEAD_DIM = 64, 4, 128
N_EXPERT, N_EXPERT_USED, N_FF_EXP, N_FF = 128, 8, 1536, 12288
N_VOCAB, N_MERGES = 151936, 151387
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
N_STAGES = 4
LOADED = (0, 47, 93)  # layers: of the first, a middle and the last stage
NAME = "Qwen3-235B-A22B-zeros-Q4_K_M.gguf"
# Bytes of the five files that the Qwen team publishes, headers included.
PUBLISHED_BYTES = 29742283872 + 29974106496 + 29933980640 + 29936094304 + 22567608864

Tensor = tuple[str, tuple[int, ...], Type]  # its shape has the contiguous dimension last


def takes_more_bits(layer: int) -> bool:
    """Whether its ffn_down and attn_v are Q6_K, as llama.cpp's quantization to Q4_K_M chooses."""
    eighth = N_LAYER // 8
    return layer < eighth or layer >= 7 * N_LAYER // 8 or (layer - eighth) % 3 == 2


def tensors() -> Iterator[Tensor]:
    """All of them, in the order of a converted file."""
    yield "output.weight", (N_VOCAB, N_EMBD), Type.Q6_K
    yield "token_embd.weight", (N_VOCAB, N_EMBD), Type.Q4_K
    for layer in range(N_LAYER):
        for name, shape, kind in layer_tensors(layer):
            yield f"blk.{layer}.{name}.weight", shape, kind
    yield "output_norm.weight", (N_EMBD,), Type.F32


def layer_tensors(layer: int) -> Iterator[Tensor]:
    """Without their prefix."""
    mixed = Type.Q6_K if takes_more_bits(layer) else Type.Q4_K
    n_q, n_kv = N_HEAD * HEAD_DIM, N_HEAD_KV * HEAD_DIM
    yield "attn_k", (n_kv, N_EMBD), Type.Q4_K
    yield "attn_k_norm", (HEAD_DIM,), Type.F32
    yield "attn_norm", (N_EMBD,), Type.F32
    yield "attn_output", (N_EMBD, n_q), Type.Q4_K
    yield "attn_q", (n_q, N_EMBD), Type.Q4_K
    yield "attn_q_norm", (HEAD_DIM,), Type.F32
    yield "attn_v", (n_kv, N_EMBD), mixed
    yield "ffn_down_exps", (N_EXPERT, N_EMBD, N_FF_EXP), mixed
    yield "ffn_gate_exps", (N_EXPERT, N_FF_EXP, N_EMBD), Type.Q4_K
    yield "ffn_gate_inp", (N_EXPERT, N_EMBD), Type.F32
    yield "ffn_norm", (N_EMBD,), Type.F32
    yield "ffn_up_exps", (N_EXPERT, N_FF_EXP, N_EMBD), Type.Q4_K


def n_bytes(shape: tuple[int, ...], kind: Type) -> int:
    """Of a tensor."""
    n_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape, dtype=np.int64)) // n_elements * block_bytes


def make(path: Path) -> None:
    """Writes the header, and makes the file as long as its tensors take."""
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_name("Qwen3-235B-A22B in shape, all weights zero")
    writer.add_context_length(N_CTX)
    writer.add_block_count(N_LAYER)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(N_EXPERT)
    writer.add_expert_used_count(N_EXPERT_USED)
    writer.add_expert_feed_forward_length(N_FF_EXP)
    add_vocabulary(writer)
    end = 0
    for name, shape, kind in tensors():
        size = n_bytes(shape, kind)
        writer.add_tensor_info(name, shape, np.dtype(np.float16), size, raw_dtype=kind)
        end += gguf.GGUFWriter.ggml_pad(size, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header_bytes = gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment)
    os.truncate(path, header_bytes + end)


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Byte-level BPE of the real size: bytes, merges of two and three, control tokens, padding."""
    letters = byte_characters()
    pairs = ((a, b) for a in letters for b in letters)
    triples = ((a + b, c) for a in letters for b in letters for c in letters)
    merges = list(itertools.islice(itertools.chain(pairs, triples), N_MERGES))
    tokens = [*letters, *(left + right for left, right in merges), *SPECIAL]
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    kinds += [gguf.TokenType.CONTROL] * len(SPECIAL)
    padding = [f"[PAD{index}]" for index in range(len(tokens), N_VOCAB)]
    kinds += [gguf.TokenType.UNUSED] * len(padding)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens + padding)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    end_of_text = tokens.index(SPECIAL[0])
    writer.add_eos_token_id(tokens.index(SPECIAL[2]))
    writer.add_pad_token_id(end_of_text)
    writer.add_bos_token_id(end_of_text)
    writer.add_add_bos_token(False)


def measured(title: str, command: list[str]) -> str:
    """Runs it; prints its time and its largest resident set. Returns its stdout."""
    begin_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{title}: exit code {process.returncode}")
    seconds = time.monotonic() - begin_s
    print(f"| {title} | {seconds:.1f} s | {usage.ru_maxrss / 1e3:,.0f} MB |", flush=True)
    return said


def load(folder: Path) -> None:
    """On ranks: each loads a layer from its shard, as a stage; what that costs each of them."""
    from pipeinfer_cli.engine.engine import Engine
    from pipeinfer_cli.engine.llama_cpp import capture_log
    from pipeinfer_cli.launch import mpi
    from pipeinfer_cli.models.layer_split import LayerRange
    from pipeinfer_cli.models.shards import read_folder
    from rank_configs import rank_config

    comm = mpi.start()
    capture_log()
    layer = LOADED[comm.rank]
    path = next(
        shard.path
        for stage, shard in read_folder(folder).items()
        if shard.split.layers(stage).first <= layer < shard.split.layers(stage).last
    )
    layers = [LayerRange(each, each + 1) for each in LOADED]
    config = rank_config(comm, path, n_ctx=4096, n_batch=32, layers=layers)
    comm.Barrier()
    begin_s = time.monotonic()
    with Engine(config) as engine:
        seconds = time.monotonic() - begin_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        row = f"| layer {layer}, a stage of its own, loaded | {seconds:.1f} s | {peak:,.0f} MB |"
        rows = comm.gather(row) or []
        if comm.rank == 0:
            print(*rows, sep="\n", flush=True)
            return
        while engine.serve(0.2) is None:
            pass


def measure(folder: Path) -> None:
    """A table of what each step costs, then what the commands have printed."""
    model, shards = folder / NAME, folder / "shards"
    bin_dir = Path(sys.executable).parent
    pipeinfer = str(bin_dir / "pipeinfer")
    print("| what | time | largest resident set |\n|---|---|---|", flush=True)
    show = [pipeinfer, "models", "show", str(model), "--stages", str(N_STAGES)]
    plan = [pipeinfer, "generate", "-m", str(model), "--plan", "--ranks", str(N_STAGES), "x"]
    cut = [pipeinfer, "shard", str(model), "--stages", str(N_STAGES), "-o", str(shards)]
    said = [measured("models show --stages 4", show), measured("generate --plan --ranks 4", plan)]
    measured("shard --stages 4", cut)
    ranks = [str(bin_dir / "mpiexec"), "-n", str(len(LOADED)), sys.executable, __file__]
    subprocess.run([*ranks, "load", str(shards)], check=True)
    print("", *said, sep="\n")
    for path in (model, *sorted(shards.iterdir())):
        print(sizes(path))
    shutil.rmtree(shards)


def sizes(path: Path) -> str:
    """What a file has, and takes."""
    status = path.stat()
    return f"{path.name}: {status.st_size:,} bytes, {status.st_blocks * 512:,} of them on the disk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("make", "measure", "load"))
    parser.add_argument("folder", type=Path, help="of the file and its shards")
    options = parser.parse_args()
    if options.command == "make":
        options.folder.mkdir(parents=True, exist_ok=True)
        make(options.folder / NAME)
        print(sizes(options.folder / NAME))
    elif options.command == "measure":
        measure(options.folder)
    else:
        load(options.folder)


if __name__ == "__main__":
    main()
