"""Messages quote URLs and names; what they quote must be safe to store and to show."""

from __future__ import annotations

import pytest

from pipeline import limits
from pipeline.messages import describe, readable, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/x.tar: gone", "https://user:***@host/x.tar: gone"),
        ("simplecache::https://u:p%40ss@host:8080/x", "simplecache::https://u:***@host:8080/x"),
        ("(https://h/x?X-Amz-Signature=abc123&a=1)", "(https://h/x?X-Amz-Signature=***&a=1)"),
        (
            "url='https://h/x?X-Goog-Credential=me%2F&X-Goog-Signature=00ff'",
            "url='https://h/x?X-Goog-Credential=***&X-Goog-Signature=***'",
        ),
        ("https://a.blob/x?sv=1&sig=Zm9v%3D&se=2", "https://a.blob/x?sv=1&sig=***&se=2"),
        ("https://h/x?access_token=t&key=k", "https://h/x?access_token=***&key=***"),
        ("https://h/x?X-Amz-Security-Token=t", "https://h/x?X-Amz-Security-Token=***"),
        ("https://h/x?AWSAccessKeyId=AKIA&Signature=s", "https://h/x?AWSAccessKeyId=***&Signature=***"),
    ],
)
def test_passwords_and_signatures_of_urls_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == readable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "gs://bucket/a@b/x.parquet: no such file",
        "s3://bucket/keys/x.parquet?versionId=3",
        "abfs://container@account.dfs.core.windows.net/x",
        "row 3: key=7",
        "at 12:30@home",
    ],
)
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert readable(text) == text


def test_long_messages_keep_their_two_ends() -> None:
    text = readable("begin" + "-" * 10**6 + "end")
    assert len(text) <= limits.MESSAGE_CHARACTERS and text.startswith("begin-") and text.endswith("-end")


def test_an_exception_without_a_message_is_named() -> None:
    assert describe(MemoryError()) == "MemoryError" and describe(ValueError("why")) == "why"
