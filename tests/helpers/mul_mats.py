"""Random matrices times columns, alone and together, by ggml's CPU backend.

    python tests/helpers/mul_mats.py LIB_DIR REQUEST

REQUEST is JSON: [[type, repacked, k, m, n_threads], ...]: weights of k columns and m rows. Prints
as JSON, per case, {"alone", "together"}: for each n of SIZES the SHA-256 of n columns' products,
computed one by one and in one batch. Weights and columns lie in allocations of just their size, for
the address sanitizer to see who goes beyond. Knows nothing of pipeinfer.
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

import numpy as np

# of batches: all small ones, and about where kernels take another number at a time
SIZES = [*range(1, 18), 24, 31, 32, 33, 40, 63, 64, 65, 100]
N_MAX = max(SIZES)
TYPES = {  # ggml_type
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13,
    "Q6_K": 14, "BF16": 30,
}  # fmt: skip
F32 = TYPES["F32"]


class InitParams(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class Ggml:
    """The functions needed, of the libraries in a folder."""

    def __init__(self, lib_dir: Path) -> None:
        base = ctypes.CDLL(str(lib_dir / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        cpu = ctypes.CDLL(str(lib_dir / "libggml-cpu.so"))
        self.libc = ctypes.CDLL(None)
        self.libc.posix_memalign.argtypes = (ctypes.POINTER(c_void_p), c_size_t, c_size_t)
        self.libc.free.argtypes = (c_void_p,)
        for lib, name, restype, *argtypes in (
            (base, "ggml_init", c_void_p, InitParams),
            (base, "ggml_free", None, c_void_p),
            (base, "ggml_new_tensor_2d", c_void_p, c_void_p, c_int, c_int64, c_int64),
            (base, "ggml_mul_mat", c_void_p, c_void_p, c_void_p, c_void_p),
            (base, "ggml_new_graph", c_void_p, c_void_p),
            (base, "ggml_build_forward_expand", None, c_void_p, c_void_p),
            (base, "ggml_row_size", c_size_t, c_int, c_int64),
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

    def __init__(self, ggml: Ggml, type_name: str, repacked: bool, k: int, m: int) -> None:
        self._ggml, self._type, self._k, self._m = ggml, TYPES[type_name], k, m
        self._repacked = repacked
        random = np.random.default_rng([self._type, k, m])
        self.columns = random.standard_normal((N_MAX, k)).astype(np.float32)
        self.columns[1] = 0
        self.columns[2] *= 1000
        self.columns[3] = -(self.columns[3] ** 5)
        values = random.standard_normal((m, k)).astype(np.float32)
        values[m // 2] *= 100
        values[0, : k // 2] = 0
        self._weights = self._quantize(values)

    def _quantize(self, values: np.ndarray) -> np.ndarray:
        if self._type == F32:
            return values
        weights = np.zeros(self._m * self._ggml.ggml_row_size(self._type, self._k), np.uint8)
        self._ggml.ggml_quantize_chunk(
            self._type, values.ctypes.data, weights.ctypes.data, 0, self._m, self._k, None
        )
        if self._type == TYPES["Q8_0"]:
            weights[2 : 2 + 8] = 0x80  # -128, which no quantizer writes
        return weights

    def compute(self, columns: np.ndarray, n_threads: int) -> np.ndarray:
        """float32 [n, k] to [n, m]."""
        ggml, n = self._ggml, len(columns)
        with ExitStack() as stack:
            context = ggml.ggml_init(InitParams(mem_size=1 << 20, mem_buffer=None, no_alloc=True))
            stack.callback(ggml.ggml_free, context)
            weights = ggml.ggml_new_tensor_2d(context, self._type, self._k, self._m)
            inputs = ggml.ggml_new_tensor_2d(context, F32, self._k, n)
            product = ggml.ggml_mul_mat(context, weights, inputs)
            self._fill(stack, weights, self._weights, repacked=self._repacked)
            self._fill(stack, inputs, columns)
            result = np.full((n, self._m), np.nan, np.float32)
            address = self._fill(stack, product, result)
            graph = ggml.ggml_new_graph(context)
            ggml.ggml_build_forward_expand(graph, product)
            backend = ggml.ggml_backend_cpu_init()
            stack.callback(ggml.ggml_backend_free, backend)
            ggml.ggml_backend_cpu_set_n_threads(backend, n_threads)
            assert ggml.ggml_backend_graph_compute(backend, graph) == 0
            ctypes.memmove(result.ctypes.data, address, result.nbytes)
        return result

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


def run(ggml: Ggml, type_name: str, repacked: bool, k: int, m: int, n_threads: int):
    products = Products(ggml, type_name, repacked, k, m)
    columns = products.columns
    alone = np.concatenate([products.compute(column[None], n_threads) for column in columns])
    return {
        "alone": [sha256(alone[:n]) for n in SIZES],
        "together": [sha256(products.compute(columns[:n], n_threads)) for n in SIZES],
    }


def main() -> None:
    ggml = Ggml(Path(sys.argv[1]))
    print(json.dumps([run(ggml, *case) for case in json.loads(sys.argv[2])]))


if __name__ == "__main__":
    main()
