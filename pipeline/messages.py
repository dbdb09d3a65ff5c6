"""Text of errors, made fit to be stored and shown: no secrets, valid UTF-8, of bounded length."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline import limits

HIDDEN = "***"
SHOWN = 10  # of many items
_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^/@\s]+(?=@)")
_SIGNATURE = re.compile(
    r"([?&](?:[\w.-]*(?:signature|credential|token|secret|password)|sig|key|awsaccesskeyid|googleaccessid)=)"
    r"[^&\s\"'<>)]+",
    re.IGNORECASE,
)
SHORTEST_SECRET = 6  # characters; shorter ones are words of messages

_secrets: set[str] = set()


def hide(secret: str) -> None:
    """Keeps a value out of every message of this process from here on."""
    if len(secret) >= SHORTEST_SECRET:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Without hidden values, and the passwords (https://user:***@host) and signatures (?sig=***) of URLs."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    return _SIGNATURE.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1{HIDDEN}", text))


def readable(text: str) -> str:
    """What an error row may hold: redacted, lone surrogates as escapes, the middle of long text cut."""
    text = redact(text).encode("utf-8", "backslashreplace").decode()
    if len(text) <= limits.MESSAGE_CHARACTERS:
        return text
    half = limits.MESSAGE_CHARACTERS // 2 - 3
    return f"{text[:half]} ... {text[-half:]}"


def describe(error: BaseException) -> str:
    """An exception's message, or its type where it has none."""
    return str(error) or type(error).__name__


def cause(message: str) -> str:
    """Of an error row: what stands before the details."""
    return message.split(":")[0]


def some(items: Sequence[object], shown: int = SHOWN) -> str:
    """The first of the items, and how many more there are."""
    first = ", ".join(readable(str(item)) for item in items[:shown])
    return first if len(items) <= shown else f"{first}, and {len(items) - shown} more"


def is_text(text: str) -> bool:
    """Whether it can be stored; bytes of a file's name that are no UTF-8 are lone surrogates to Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
