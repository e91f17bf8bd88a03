"""The prompts."""

from __future__ import annotations

STORY = "Once upon a time, in a small village by the sea,"
SUBJECTS = (
    "a lighthouse keeper who",
    "the history of bread, which",
    "how a bridge is built:",
    "three uses of copper:",
    "a letter to an old friend:",
    "why leaves turn red in autumn:",
)


def _function(index: int) -> str:
    return f"def scale_{index}(values):\n    return [value * {index} for value in values]\n\n\n"


CODE = "".join(_function(index) for index in range(2, 10)) + "def scale_10(values):"


def numbered(n_prompts: int) -> list[str]:
    """Prompts of which no two begin alike."""
    n_subjects = len(SUBJECTS)
    return [f"{i + 1}. Write about {SUBJECTS[i % n_subjects]}" for i in range(n_prompts)]
