"""Random matrices times columns, alone and together, by ggml's CPU backend.

    python tests/helpers/mul_mats.py CPU_BACKEND REQUEST [SIZES]

CPU_BACKEND is its library, beside which libggml-base.so lies.
REQUEST is JSON: [[type, repacked, kind, n_blocks, m, n_threads], ...]: weights of m rows of
n_blocks blocks (of the type). Kinds: "plain", one matrix; "experts", N_EXPERTS of them, and each
column goes to N_USED; "heads", N_HEADS of them, each with columns of its own, as latent attention
has. Prints as JSON, per case, {"alone", "together"}: for each n of SIZES the SHA-256 of n columns'
products, computed one by one and in one batch; null if the library does not repack the type.
SIZES is JSON, too: other numbers of columns.
Weights and columns lie in allocations of just their size, for the address sanitizer to see who goes
beyond. Knows nothing of pipeinfer.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
import sys
from contextlib import ExitStack
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

# of batches: all small ones, and about where kernels take another number at a time
SIZES = [*range(1, 18), 24, 31, 32, 33, 40, 63, 64, 65, 100]
KINDS = ("plain", "experts", "heads")
N_EXPERTS, N_USED = 4, 2  # of each column
N_HEADS = 3
# in the place of a result: not a number, and none that sums of halves overflow to (ARM, F16)
UNSET = np.array(0x7FC0DEAD, np.uint32).view(np.float32)[()]
TYPES = {  # ggml_type: those of weights that ggml can multiply
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10,
    "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18,
    "IQ1_S": 19, "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23, "IQ1_M": 29, "BF16": 30,
    "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41, "Q2_0": 42,
}  # fmt: skip
F32, I32 = TYPES["F32"], 26
# those that libraries repack, and one of what these must be built for
REPACKED = {
    "Q4_0": ("avx2", "dotprod"), "Q4_K": ("avx2", "dotprod"), "IQ4_NL": ("avx2", "dotprod"),
    "MXFP4": ("avx2", "dotprod"), "Q2_K": ("avx512",), "Q5_K": ("dotprod",),
    "Q6_K": ("dotprod",), "Q8_0": ("dotprod",), "Q1_0": ("dotprod",),
}  # fmt: skip
# in blocks, and rows: one of each; more and less than kernels take at a time, and no multiple of it
SHAPES = [(1, 1), (3, 3), (2, 8), (17, 37)]
REPACKED_SHAPES = [(1, 8), (3, 24), (2, 40)]
FLOATS = ("F32", "F16", "BF16")
# a row that is not a multiple of a vector; one of several parts
FLOAT_SHAPES = [(32, 1), (96, 3), (64, 8), (544, 37), (100, 5), (4160, 9)]


def cases(type_name: str) -> list[list[Any]]:
    """What is tested of a type: a request."""
    shapes = FLOAT_SHAPES if type_name in FLOATS else SHAPES
    found: list[list[Any]] = [[type_name, False, "plain", *shape] for shape in shapes]
    found += [[type_name, False, kind, *shape] for kind in KINDS[1:] for shape in shapes[1:3]]
    if type_name in REPACKED:  # llama.cpp repacks no matrices of heads
        found += [
            [type_name, True, kind, *shape] for kind in KINDS[:2] for shape in REPACKED_SHAPES
        ]
    return [[*case, 1 + index % 3] for index, case in enumerate(found)]


class InitParams(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class Ggml:
    """The functions needed, of a CPU backend and libggml-base beside it."""

    def __init__(self, cpu_backend: Path) -> None:
        base = ctypes.CDLL(str(cpu_backend.with_name("libggml-base.so")), mode=ctypes.RTLD_GLOBAL)
        cpu = ctypes.CDLL(str(cpu_backend))
        self.libc = ctypes.CDLL(None)
        self.libc.posix_memalign.argtypes = (ctypes.POINTER(c_void_p), c_size_t, c_size_t)
        self.libc.free.argtypes = (c_void_p,)
        for lib, name, restype, *argtypes in (
            (base, "ggml_init", c_void_p, InitParams),
            (base, "ggml_free", None, c_void_p),
            (base, "ggml_new_tensor_2d", c_void_p, c_void_p, c_int, c_int64, c_int64),
            (base, "ggml_new_tensor_3d", c_void_p, c_void_p, c_int, c_int64, c_int64, c_int64),
            (base, "ggml_permute", c_void_p, c_void_p, c_void_p, c_int, c_int, c_int, c_int),
            (base, "ggml_mul_mat", c_void_p, c_void_p, c_void_p, c_void_p),
            (base, "ggml_mul_mat_id", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
            (base, "ggml_new_graph", c_void_p, c_void_p),
            (base, "ggml_build_forward_expand", None, c_void_p, c_void_p),
            (base, "ggml_row_size", c_size_t, c_int, c_int64),
            (base, "ggml_blck_size", c_int64, c_int),
            (base, "ggml_quantize_chunk", c_size_t, c_int, c_void_p, c_void_p, c_int64, c_int64,
             c_int64, c_void_p),
            (base, "ggml_backend_cpu_buffer_from_ptr", c_void_p, c_void_p, c_size_t),
            (base, "ggml_backend_buft_name", c_char_p, c_void_p),
            (base, "ggml_backend_buft_alloc_buffer", c_void_p, c_void_p, c_size_t),
            (base, "ggml_backend_buffer_get_base", c_void_p, c_void_p),
            (base, "ggml_backend_buffer_free", None, c_void_p),
            (base, "ggml_backend_tensor_alloc", c_int, c_void_p, c_void_p, c_void_p),
            (base, "ggml_backend_tensor_set", None, c_void_p, c_void_p, c_size_t, c_size_t),
            (base, "ggml_backend_graph_compute", c_int, c_void_p, c_void_p),
            (base, "ggml_backend_free", None, c_void_p),
            (base, "ggml_backend_reg_get_proc_address", c_void_p, c_void_p, c_char_p),
            (base, "ggml_backend_reg_dev_get", c_void_p, c_void_p, c_size_t),
            (cpu, "ggml_backend_cpu_reg", c_void_p),
            (cpu, "ggml_backend_cpu_init", c_void_p),
            (cpu, "ggml_cpu_has_avx2", c_int),
            (cpu, "ggml_cpu_has_avx512", c_int),
            (cpu, "ggml_cpu_has_dotprod", c_int),
            (cpu, "ggml_backend_cpu_set_n_threads", None, c_void_p, c_int),
        ):  # fmt: skip
            function = getattr(lib, name)
            function.restype, function.argtypes = restype, argtypes
            setattr(self, name, function)

    def repack_type(self) -> int:
        """The type of buffers whose weights are repacked."""
        reg = self.ggml_backend_cpu_reg()
        address = self.ggml_backend_reg_get_proc_address(reg, b"ggml_backend_dev_get_extra_bufts")
        get = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)
        found = get(self.ggml_backend_reg_dev_get(reg, 0))
        for type_ in itertools.takewhile(bool, found):
            if self.ggml_backend_buft_name(type_) == b"CPU_REPACK":
                return type_
        raise AssertionError("this library repacks no weights")


class Products:
    """Computes one case's weights times some columns."""

    def __init__(
        self,
        ggml: Ggml,
        n_max: int,
        type_name: str,
        repacked: bool,
        kind: str,
        n_blocks: int,
        m: int,
    ) -> None:
        self._ggml, self._type, self._m = ggml, TYPES[type_name], m
        self._k = k = n_blocks * ggml.ggml_blck_size(self._type)
        self._kind = kind
        self._repacked = repacked
        random = np.random.default_rng([self._type, k, m])
        n_inputs = N_HEADS if kind == "heads" else 1  # of a token
        self._columns = random.standard_normal((n_max, n_inputs, k)).astype(np.float32)
        self._columns[1] = 0
        self._columns[2] *= 1000
        cubed = self._columns[3] * self._columns[3] * self._columns[3]  # `**` rounds by processor
        self._columns[3] = -(cubed * self._columns[3] * self._columns[3])
        n_matrices = {"plain": 1, "experts": N_EXPERTS, "heads": N_HEADS}[kind]
        values = random.standard_normal((n_matrices * m, k)).astype(np.float32)
        values[m // 2] *= 100
        values[0, : k // 2] = 0
        self._weights = self._quantize(values)
        chosen = [random.permutation(n_matrices)[:N_USED] for _ in range(n_max)]
        self._chosen = np.array(chosen, np.int32)

    def _quantize(self, values: np.ndarray) -> np.ndarray:
        if self._type == F32:
            return values
        n_rows, k = values.shape
        weights = np.zeros(n_rows * self._ggml.ggml_row_size(self._type, k), np.uint8)
        importance = np.ones(k, np.float32)  # which some types insist on
        self._ggml.ggml_quantize_chunk(
            self._type, values.ctypes.data, weights.ctypes.data, 0, n_rows, k,
            importance.ctypes.data,
        )  # fmt: skip
        if self._type == TYPES["Q8_0"]:
            weights[2 : 2 + 8] = 0x80  # -128, which no quantizer writes
        return weights

    def compute(self, first: int, end: int, n_threads: int) -> np.ndarray:
        """Of the columns [first, end): float32 [n, N_USED or N_HEADS or 1, m]."""
        ggml, n, k, m = self._ggml, end - first, self._k, self._m
        with ExitStack() as stack:
            context = ggml.ggml_init(InitParams(mem_size=1 << 20, mem_buffer=None, no_alloc=True))
            stack.callback(ggml.ggml_free, context)
            if self._kind == "experts":
                weights = ggml.ggml_new_tensor_3d(context, self._type, k, m, N_EXPERTS)
                inputs = ggml.ggml_new_tensor_3d(context, F32, k, 1, n)
                chosen = ggml.ggml_new_tensor_2d(context, I32, N_USED, n)
                product = ggml.ggml_mul_mat_id(context, weights, inputs, chosen)
                self._fill(stack, chosen, self._chosen[first:end])
                result = np.full((n, N_USED, m), UNSET, np.float32)
            elif self._kind == "heads":
                weights = ggml.ggml_new_tensor_3d(context, self._type, k, m, N_HEADS)
                inputs = ggml.ggml_new_tensor_3d(context, F32, k, N_HEADS, n)
                self._fill(stack, inputs, self._columns[first:end])
                by_head = ggml.ggml_permute(context, inputs, 0, 2, 1, 3)  # as the graphs have it
                product = ggml.ggml_mul_mat(context, weights, by_head)
                result = np.full((N_HEADS, n, m), UNSET, np.float32)
            else:
                weights = ggml.ggml_new_tensor_2d(context, self._type, k, m)
                inputs = ggml.ggml_new_tensor_2d(context, F32, k, n)
                product = ggml.ggml_mul_mat(context, weights, inputs)
                result = np.full((n, 1, m), UNSET, np.float32)
            self._fill(stack, weights, self._weights, repacked=self._repacked)
            if self._kind != "heads":
                self._fill(stack, inputs, self._columns[first:end])
            address = self._fill(stack, product, result)
            graph = ggml.ggml_new_graph(context)
            ggml.ggml_build_forward_expand(graph, product)
            backend = ggml.ggml_backend_cpu_init()
            stack.callback(ggml.ggml_backend_free, backend)
            ggml.ggml_backend_cpu_set_n_threads(backend, n_threads)
            assert ggml.ggml_backend_graph_compute(backend, graph) == 0
            ctypes.memmove(result.ctypes.data, address, result.nbytes)
        is_unset = result.view(np.uint32) == UNSET.view(np.uint32)
        assert not is_unset.any(), "a product was not computed"
        return result.transpose(1, 0, 2) if self._kind == "heads" else result

    def _fill(self, stack, tensor: int, values: np.ndarray, repacked: bool = False) -> int:
        """Gives the tensor a buffer of its own with these values; returns its address."""
        ggml = self._ggml
        if repacked:
            buffer = ggml.ggml_backend_buft_alloc_buffer(ggml.repack_type(), values.nbytes)
            address = ggml.ggml_backend_buffer_get_base(buffer)
        else:
            memory = c_void_p()
            # aligned_alloc would want a multiple of 64, and nobody would see who goes beyond
            assert ggml.libc.posix_memalign(ctypes.byref(memory), 64, values.nbytes) == 0
            stack.callback(ggml.libc.free, memory)
            address = memory.value
            buffer = ggml.ggml_backend_cpu_buffer_from_ptr(address, values.nbytes)
        stack.callback(ggml.ggml_backend_buffer_free, buffer)
        assert ggml.ggml_backend_tensor_alloc(buffer, tensor, address) == 0
        ggml.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)
        return address


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def run(
    ggml: Ggml, sizes: list[int], *case: Any, also_together: bool = True
) -> dict[str, list[str]] | None:
    type_name, repacked, *_ = case
    if repacked and not any(getattr(ggml, f"ggml_cpu_has_{x}")() for x in REPACKED[type_name]):
        return None
    *shape, n_threads = case
    n_max = max(sizes)
    products = Products(ggml, n_max, *shape)
    alone = np.concatenate([products.compute(i, i + 1, n_threads) for i in range(n_max)])
    return {
        "alone": [sha256(alone[:n]) for n in sizes],
        "together": [sha256(products.compute(0, n, n_threads)) for n in sizes if also_together],
    }


def main() -> None:
    ggml = Ggml(Path(sys.argv[1]))
    sizes = json.loads(sys.argv[3]) if len(sys.argv) > 3 else SIZES
    also_together = sys.argv[4:] != ["alone"]
    answers = [
        run(ggml, sizes, *case, also_together=also_together) for case in json.loads(sys.argv[2])
    ]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
