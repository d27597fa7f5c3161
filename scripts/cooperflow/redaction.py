"""Provider keys: validation, and redaction in all files and output."""

from __future__ import annotations

import base64
import contextlib
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote, urlsplit

from cooperflow import atomic_io

# A shorter key may be an ordinary word (a replay accepts any key).
SHORTEST = 8
# Size above which files are not searched, bytes; a patch may be that large.
MAX_FILE_BYTES = 64 << 20
MARK = "[key]"

# Variables with credentials that litellm reads by itself. An error may quote them: AWS's error
# about a wrong signature contains the session's token.
CREDENTIALS = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"),
    *("AZURE_CLIENT_SECRET", "AZURE_AD_TOKEN"),
)

_SENDABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Key:
    """The key in an environment variable, or the problem that prevents its use."""

    value: str | None  # without surrounding white space; None: missing or unusable
    problem: str = ""  # the reason why it cannot be used, empty if it can
    note: str = ""  # a remark on removed white space, empty without one


def read(name: str | None, environment: Mapping[str, str]) -> Key:
    """Return the key in the variable ``name``.

    White space around a key is removed, since a secret file usually ends in a line break. A key
    with any other character that is invalid in an HTTP header is refused, because an HTTP client
    would quote the key in its error.
    """
    raw = environment.get(name or "") or ""
    value = raw.strip()
    if not value:
        return Key(None)
    if not _SENDABLE.fullmatch(value):
        character = next(c for c in value if not _SENDABLE.fullmatch(c))
        return Key(
            None,
            f"The key in {name} contains {_describe(character)} at position "
            f"{value.index(character) + 1}, which no HTTP header can carry. Allowed: printable "
            "ASCII characters without spaces. "
            f"Set {name} to the key alone.",
        )
    if value != raw:
        side = "ends with" if raw.startswith(value[0]) else "starts with"
        return Key(value, note=f"{name} {side} white space, which is not part of the key: removed")
    return Key(value)


def key_value(name: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the key in the variable ``name`` as it is sent, None if it is missing or unusable."""
    return read(name, environment).value


def _describe(character: str) -> str:
    names = {"\n": "a line break", "\r": "a carriage return", "\t": "a tab", " ": "a space"}
    return names.get(character, f"the character U+{ord(character):04X}")


@lru_cache(maxsize=64)
def spellings(key: str) -> tuple[str, ...]:
    """Return every encoding in which ``key`` may appear, the longest first.

    These are the key itself, the key without surrounding white space, and its forms in repr, JSON,
    URLs, HTML and base64. Base64 has three alignments, because a header encodes more than the key.
    """
    forms: set[str] = set()
    for plain in {key, key.strip()}:
        if len(plain) < SHORTEST:
            continue
        forms.add(plain)
        for ascii_only in (True, False):
            encoded = json.dumps(plain, ensure_ascii=ascii_only)[1:-1]
            forms |= {encoded, json.dumps(encoded, ensure_ascii=ascii_only)[1:-1]}
        for literal in (repr(plain), repr(plain.encode(errors="surrogateescape")).lstrip("b")):
            forms |= {literal[1:-1], json.dumps(literal)[2:-2]}
            forms |= {json.dumps(literal, ensure_ascii=False)[2:-2]}
        for safe in ("", "/"):
            forms |= {quote(plain, safe=safe, errors="replace")}
            forms |= {quote_plus(plain, safe=safe, errors="replace")}
        forms |= {html.escape(plain), html.escape(plain, quote=False)}
        forms |= set(_base64(plain.encode(errors="surrogateescape")))
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def _base64(data: bytes) -> Iterator[str]:
    """Return the characters of ``data`` in base64 that do not depend on adjacent bytes."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        first = -(-8 * before // 6)
        last = 8 * (before + len(data)) // 6
        text = encoded[first:last]
        yield text
        yield text.replace("+", "-").replace("/", "_")


@dataclass(frozen=True)
class Redactor:
    """Replaces keys in text and in bytes."""

    keys: tuple[str, ...]

    @classmethod
    def of(cls, keys: Iterable[str | None]) -> Redactor:
        return cls(tuple(dict.fromkeys(key for key in keys if key)))

    @classmethod
    def for_calls(cls, key: str | None, environment: Mapping[str, str]) -> Redactor:
        """Return a redactor of a model's key and of the cloud credentials in ``environment``."""
        return cls.of([key, *secrets([], environment)])

    @property
    def _forms(self) -> list[str]:
        forms = {form for key in self.keys for form in spellings(key)}
        return sorted(forms, key=lambda form: (-len(form), form))

    def text(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        return text

    def data(self, data: bytes) -> bytes:
        for form in self._forms:
            secret = form.encode(errors="surrogateescape")
            if secret in data:
                data = data.replace(secret, MARK.encode())
        return data


class RedactedStream:
    """Text stream that redacts keys."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream = stream
        self._redactor = redactor

    def write(self, text: str) -> int:
        self._stream.write(self._redactor.text(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact(text: str, key: str | None) -> str:
    """Return ``text`` without ``key``."""
    return Redactor.of([key]).text(text)


def redact_files(folder: Path, secrets: Iterable[str | None]) -> None:
    """Replace ``secrets`` in all files below ``folder``; a provider's error may quote them."""
    redactor = Redactor.of(secrets)
    if not any(spellings(key_value) for key_value in redactor.keys):
        return
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_FILE_BYTES:
                data = path.read_bytes()
                is_compressed = path.name.endswith(atomic_io.COMPRESSED)
                with contextlib.suppress(EOFError, zlib.error):  # nobody can read it either
                    content = gzip.decompress(data) if is_compressed else data
                    clean = redactor.data(content)
                    if clean != content:
                        new = gzip.compress(clean, mtime=0) if is_compressed else clean
                        atomic_io.write_bytes(path, new)


def secrets(
    names: Iterable[str | None], environment: Mapping[str, str], url: str | None = None
) -> list[str]:
    """Return the texts that no file may contain: values of variables, and the password of a URL.

    Args:
        names: variables with keys; variables with cloud credentials are added.
        url: URL of the message store.
    """
    variables = dict.fromkeys([*names, *CREDENTIALS])
    values = [environment[name] for name in variables if name and environment.get(name)]
    password = urlsplit(url).password if url else None
    return [*values, *([password, unquote(password)] if password else [])]
