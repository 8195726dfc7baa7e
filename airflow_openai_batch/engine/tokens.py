"""How many tokens a request takes in, told offline: by ``tiktoken`` where it needs no network for it, else by a rule.

``tiktoken`` downloads an encoding when it is first used, without a time limit. So it is asked only when the encoding
is loaded already or whole in its cache (``TIKTOKEN_CACHE_DIR``, ``DATA_GYM_CACHE_DIR``, else ``data-gym-cache`` in the
temporary folder; a file is named by the SHA-1 of its URL), or when the user lets it download.

The rule, "bytes by script", gives each kind of character a figure (:data:`_SCRIPTS`, :func:`_ascii`). The figures are
round ones for prose, set above what the encodings are known to make of it and measured by nobody here: expect 5 to 60
per cent too many, which is the safe side for a budget. Too few are possible for odd text: rare CJK characters, words
put together by chance, scripts mixed letter by letter. Two bounds are certain of any byte-level encoding that splits
at spaces, as OpenAI's do: no more tokens than bytes of UTF-8, no fewer than words.

What isn't in the text is added: 4 tokens a message and 3 for the answer's beginning (OpenAI's cookbook on counting
tokens), images by :data:`_IMAGES`. Tools and schemas count as their JSON, which is more than the form that models see.
Stored prompts, earlier responses and conversations that a request refers to can't be seen, nor what is in files and
audio; of these :class:`BodyTokens` says how many there were.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from functools import lru_cache
from math import ceil
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

PER_MESSAGE = 4
PER_ANSWER = 3

DOWNLOAD_WAIT = 30.0
"""Seconds that a download of an encoding may take before the rule is used instead."""

LONG = 100_000
"""Characters past which ``tiktoken`` is shown slices of a text, in all this long, and the rest is taken to be alike."""

_SLICES = 10

_SCRIPTS: tuple[tuple[re.Pattern[str], float, float], ...] = tuple(
    (re.compile(f"[{letters}]+"), o200k, cl100k)
    for letters, o200k, cl100k in (
        ("\u0400-\u052f", 0.4, 0.6),  # Cyrillic
        ("\u1100-\u11ff\u3130-\u318f\uac00-\ud7af", 0.8, 1.4),  # Hangul
        ("\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff", 1.0, 1.5),  # Chinese, Japanese
        ("\u0080-\u024f\u0300-\u036f\u1e00-\u1eff", 0.7, 1.0),  # Latin with marks
        ("\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe", 0.6, 1.2),  # Hebrew, Arabic, Persian, Urdu
        ("\u0900-\u0dff", 0.6, 2.0),  # the scripts of India and Sri Lanka
        ("\u0e00-\u0e7f", 0.7, 1.5),  # Thai
        ("\u0370-\u03ff\u1f00-\u1fff", 0.6, 1.2),  # Greek
        ("\u2000-\u2bff", 1.5, 1.5),  # punctuation, signs
    )
)
"""Characters, and tokens for each with o200k and cl100k encodings. Any other: a token a byte, the most there can be."""

_LETTERS = b"abcdefghijklmnopqrstuvwxyz \n\r\t"
_DIGITS = b"0123456789"
_CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NO_WORD = re.compile(rb"[A-Za-z0-9+/]{25,}")
_BEYOND_ASCII = re.compile(r"[\x00-\x7f]+")

_IMAGES: tuple[tuple[re.Pattern[str], int, int], ...] = tuple(
    (re.compile(models), low, high)
    for models, low, high in (
        (r"gpt-4o-mini", 2_833, 48_169),
        (r"gpt-(4\.1|5)-nano", 3_779, 3_779),
        (r"gpt-(4\.1|5)-mini", 2_489, 2_489),
        (r"o4-mini", 2_642, 2_642),
        (r"(gpt-4o|gpt-4\.1|gpt-4-turbo|gpt-4\.5|gpt-5|o1|o3)(-|$)", 85, 1_445),
        (r"", 3_779, 3_779),
    )
)
"""Models, tokens of an image with ``detail: low``, and with any other or none.

As OpenAI's images and vision guide had them, each for the largest image that isn't scaled down: of 8 tiles (85 and
170 a tile; 2,833 and 5,667 with gpt-4o-mini), or of 1,536 patches by the model's factor (1.62, 1.72, 2.46), where
``low`` isn't relied on. Most images are smaller. A model that isn't listed is taken to be as dear as the nano ones.
"""

_CL100K = re.compile(r"(ft:)?(gpt-4(?![o.])|gpt-3|text-embedding-|davinci-002|babbage-002)")
_ENCODINGS = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "p50k_base": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "r50k_base": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
}
"""The encodings' files and their SHA-256, as in ``tiktoken_ext.openai_public``; it fetches anew what differs."""

_FILES = {"o200k_harmony": "o200k_base", "p50k_edit": "p50k_base"}
_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


class BodyTokens(NamedTuple):
    """What a request takes in.

    :param tokens: input tokens, images with them.
    :param images: how many images it has.
    :param unseen: parts that aren't in ``tokens``: audio, files, and what it refers to.
    """

    tokens: int
    images: int = 0
    unseen: int = 0


class TokenCounter:
    """Counts a model's tokens.

    :param name: how, for the user: ``tiktoken o200k_base`` or ``bytes by script``.
    """

    def __init__(self, name: str, model: str, count: Callable[[str], int]) -> None:
        self.name = name
        self._count = count
        bare = _bare(model)
        self._low, self._high = next((low, high) for models, low, high in _IMAGES if models.match(bare))

    def count(self, text: str) -> int:
        """Return the tokens of a text."""
        return self._count(text) if text else 0

    def count_body(self, body: dict[str, Any]) -> BodyTokens:
        """Return the input tokens of a request's body, of whichever endpoint."""
        parts = _Parts(self._low, self._high)
        parts.take_body(body)
        return BodyTokens(sum(map(self.count, parts.texts)) + parts.tokens, parts.images, parts.unseen)


def counter_for(model: str, *, download: bool = False) -> TokenCounter:
    """Return what counts a model's tokens.

    :param model: as requests name it; a model that ``tiktoken`` doesn't know is taken to have o200k_base.
    :param download: whether ``tiktoken`` may fetch an encoding that isn't in its cache, for :data:`DOWNLOAD_WAIT`.
    """
    bare = _bare(model)
    encoding = _load(_encoding_name(bare), download)
    if encoding is not None:
        return TokenCounter(f"tiktoken {encoding.name}", model, lambda text: _tiktoken(encoding, text))
    old = _CL100K.match(bare) is not None
    return TokenCounter("bytes by script", model, lambda text: _by_script(text, old=old))


def output_ceiling(body: dict[str, Any]) -> int | None:
    """Return the most output tokens that a request may be billed for, None where it sets no limit.

    Each of ``n`` answers may be as long as the limit; of ``best_of`` those that aren't returned are billed too.
    """
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        limit = _positive(body.get(name))
        if limit:
            return limit * max(_positive(body.get("n")), _positive(body.get("best_of")), 1)
    return None


def _positive(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _bare(model: str) -> str:
    return model.rpartition("/")[2].lower()


class _Parts:
    """Gathers what a body is made of: texts, and tokens that no text stands for."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self.texts: list[str] = []
        self.tokens = self.images = self.unseen = 0

    def take_body(self, body: dict[str, Any]) -> None:
        messages = body.get("messages")
        if messages:
            self.tokens += PER_ANSWER
            self._take(messages)
        self._take_input(body.get("input"))
        self._take_input(body.get("prompt"))
        instructions = body.get("instructions")
        if instructions:
            self.tokens += PER_MESSAGE
            self._take(instructions)
        self._take(body.get("suffix"))
        text = body.get("text")
        for schema in (
            body.get("tools"),
            body.get("functions"),
            body.get("response_format"),
            text.get("format") if isinstance(text, dict) else None,
        ):
            if schema:
                self.texts.append(_json(schema))
        self.unseen += sum(1 for name in ("previous_response_id", "conversation") if body.get(name))

    def _take_input(self, value: Any) -> None:
        if isinstance(value, str):
            self.texts.append(value)
        elif isinstance(value, list) and value:
            if isinstance(value[0], dict):
                self.tokens += PER_ANSWER
            for item in value:
                if isinstance(item, (int, float)):
                    self.tokens += 1
                elif isinstance(item, list):
                    self.tokens += len(item)
                else:
                    self._take(item)
        elif isinstance(value, dict):
            self.unseen += 1
            self._take(value.get("variables"))

    def _take(self, value: Any) -> None:
        if isinstance(value, str):
            if value[:5].lower() == "data:":
                self._take_image(None)
            else:
                self.texts.append(value)
        elif isinstance(value, list):
            for item in value:
                self._take(item)
        elif isinstance(value, dict):
            self._take_object(value)

    def _take_object(self, value: dict[str, Any]) -> None:
        kind = value.get("type")
        if kind in {"image_url", "input_image"}:
            image = value.get("image_url")
            self._take_image((image if isinstance(image, dict) else value).get("detail"))
        elif kind in {"input_audio", "file", "input_file"}:
            self.unseen += 1
        else:
            if "role" in value:
                self.tokens += PER_MESSAGE
            for name, item in value.items():
                if name not in {"type", "role", "id", "status"}:
                    self._take(item)

    def _take_image(self, detail: Any) -> None:
        self.images += 1
        self.tokens += self._low if detail == "low" else self._high


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _by_script(text: str, *, old: bool) -> int:
    """Return the tokens of a text by the rule; ``old``: of a cl100k encoding."""
    if text.isascii():
        plain, rest = text.encode(), ""
    else:
        plain, rest = text.encode("ascii", "ignore"), _BEYOND_ASCII.sub("", text)
    tokens = _ascii(plain)
    for letters, o200k, cl100k in _SCRIPTS:
        if not rest:
            break
        before = len(rest)
        rest = letters.sub("", rest)
        tokens += (cl100k if old else o200k) * (before - len(rest))
    tokens += len(rest.encode("utf-8", "surrogatepass"))
    return max(ceil(tokens), len(text.split()), 1)


def _ascii(text: bytes) -> float:
    """Return tokens: letters and blanks 4 to one, digits and capitals 2, other signs 1.5, long runs of no word 1.33."""
    words = _NO_WORD.sub(b"", text)
    no_words = len(text) - len(words)
    signs = words.translate(None, _LETTERS)
    letters = len(words) - len(signs)
    others = len(signs.translate(None, _DIGITS + _CAPITALS))
    return letters / 4 + (len(signs) - others) / 2 + others / 1.5 + no_words * 0.75


def _tiktoken(encoding: Any, text: str) -> int:
    if len(text) <= LONG:
        return len(encoding.encode_ordinary(text))
    piece, step = LONG // _SLICES, len(text) // _SLICES
    slices = [text[start : start + piece] for start in range(0, step * _SLICES, step)]
    tokens = sum(len(encoding.encode_ordinary(part)) for part in slices)
    return ceil(tokens * len(text) / sum(map(len, slices)))


def _encoding_name(bare: str) -> str:
    try:
        from tiktoken.model import encoding_name_for_model

        return encoding_name_for_model(bare)
    except (ImportError, KeyError):
        return "o200k_base"


_downloads: list[Thread] = []


@lru_cache(maxsize=32)
def _load(name: str, download: bool) -> Any:
    """Return an encoding of ``tiktoken``, or None where it isn't at hand."""
    try:
        import tiktoken
        from tiktoken.registry import ENCODINGS
    except ImportError:
        return None
    if name in ENCODINGS:
        return ENCODINGS[name]
    # A download that hangs holds the registry's lock, and whoever asks for an encoding then hangs with it.
    if any(thread.is_alive() for thread in _downloads):
        return None
    if _is_cached(_FILES.get(name, name)):
        try:
            return tiktoken.get_encoding(name)
        except (OSError, ValueError):
            return None
    return _download(name) if download else None


def _is_cached(name: str) -> bool:
    """Whether ``tiktoken`` finds an encoding's file, whole, where it would look for it."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir(), "data-gym-cache"))
    if not folder or name not in _ENCODINGS:
        return False
    file = Path(folder, hashlib.sha1(_URL.format(name).encode(), usedforsecurity=False).hexdigest())
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == _ENCODINGS[name]
    except OSError:
        return False


def _download(name: str) -> Any:
    import tiktoken

    got: list[Any] = []

    def fetch() -> None:
        try:
            got.append(tiktoken.get_encoding(name))
        except (OSError, ValueError):
            return

    thread = Thread(target=fetch, name=f"tiktoken {name}", daemon=True)
    _downloads.append(thread)
    thread.start()
    thread.join(DOWNLOAD_WAIT)
    return got[0] if got else None


__all__ = ["BodyTokens", "TokenCounter", "counter_for", "output_ceiling"]
