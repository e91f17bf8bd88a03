"""Tiny sdists that have a llama.cpp, and a patch for it."""

import hashlib
import io
import tarfile
from pathlib import Path

import upstream

FILES = {
    "CMakeLists.txt": b"project(llama)\n",
    "src/a.cpp": b"one\ntwo\nthree\nfour\nfive\n",
    "src/b.cpp": b"left alone\n",
    "models/vocab.gguf": b"not needed to build",
}
PATCH = b"""From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A B <a@b>
Subject: [PATCH] change two

---
 src/a.cpp | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/src/a.cpp b/src/a.cpp
index 1..2 100644
--- a/src/a.cpp
+++ b/src/a.cpp
@@ -1,4 +1,4 @@
 one
-two
+TWO
 three
 four
"""


def make_sdist(path: Path, files: dict[str, bytes]) -> upstream.Pin:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"some_package-1.0/vendor/llama.cpp/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return upstream.Pin("some-package", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())
