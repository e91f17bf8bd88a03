"""Text from files and from the network, made fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with characters that a terminal would act on shown as escapes: `\x1b`.

    What a GGUF, a server or a folder says of itself may hold control characters, or turn the
    direction of the text around. Generated text is another matter: it goes out as it is.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]
