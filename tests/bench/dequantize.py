"""A costlier model of the same vocabulary: a GGUF with every tensor as F32.

python tests/bench/dequantize.py MODEL.gguf OUT.gguf
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
from gguf.quants import dequantize


def main(source: Path, target: Path) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        copy_field(field, writer)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_field(field: gguf.ReaderField, writer: gguf.GGUFWriter) -> None:
    # the writer makes these itself
    made = field.name.startswith("GGUF.") or field.name in (
        "general.architecture",
        "general.file_type",
    )
    if not made:
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
