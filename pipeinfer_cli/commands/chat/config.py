"""What `pipeinfer chat` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from pipeinfer_cli.commands.generate_config import GenerateConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig(GenerateConfig):
    """Many requests, whose prompts come line by line: `prompt` is empty.

    `n_predict` is the most tokens of one answer.
    """
