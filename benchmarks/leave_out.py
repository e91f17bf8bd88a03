"""A cheaper model of the same vocabulary: a GGUF without some of its layers.

python benchmarks/leave_out.py MODEL.gguf OUT.gguf LAYER...
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from small_models import without_layers

if __name__ == "__main__":
    without_layers(Path(sys.argv[1]), Path(sys.argv[2]), {int(layer) for layer in sys.argv[3:]})
