"""Answers of the endpoints that don't write text: embeddings, moderations, images and videos.

None of them means anything, but each is a function of the request alone, so that a test can compare two runs.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib
from array import array
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.emulator import prompts, tokens
from airflow_openai_batch.emulator.errors import APIError, invalid_type, invalid_value, missing_parameter
from airflow_openai_batch.emulator.text_answers import Usage, snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_openai_batch.emulator.text_answers import Context

_DIMENSIONS = {"text-embedding-3-large": 3_072}
_DEFAULT_DIMENSIONS = 1_536
_FLAGGED = {
    "violence": ("kill", "murder", "stab", "shoot", "죽이", "殺す"),
    "harassment": ("idiot", "stupid", "moron", "멍청", "馬鹿"),
    "hate": ("i hate all", "혐오", "ヘイト"),
    "self-harm": ("suicide", "hurt myself", "자살", "自殺"),
}
_CATEGORIES = {
    "harassment": ("text",),
    "harassment/threatening": ("text",),
    "hate": ("text",),
    "hate/threatening": ("text",),
    "illicit": ("text",),
    "illicit/violent": ("text",),
    "self-harm": ("text", "image"),
    "self-harm/intent": ("text", "image"),
    "self-harm/instructions": ("text", "image"),
    "sexual": ("text", "image"),
    "sexual/minors": ("text",),
    "violence": ("text", "image"),
    "violence/graphic": ("text", "image"),
}
# Tokens of an image of 1024x1024 by quality, from the service's price list for gpt-image-1.
_IMAGE_TOKENS = {"low": 272, "medium": 1_056, "high": 4_160}


def _refuse_by_marker(context: Context) -> None:
    if context.marker is not None and context.marker.action in {"refusal", "content_filter"}:
        message = "Your request was rejected as a result of our safety system."
        raise APIError(400, message, code="content_policy_violation", kind="image_generation_user_error")


def embedding_inputs(value: Any) -> list[Any]:
    """Return the inputs of an embedding request: texts, or arrays of token numbers."""
    if isinstance(value, list) and value and not all(isinstance(item, int) for item in value):
        return value
    return [value]


def unit_vector(seed: str, dimensions: int) -> list[float]:
    """Return a vector of length 1 that depends on ``seed`` alone."""
    numbers = array("h", hashlib.shake_128(seed.encode("utf-8", "surrogatepass")).digest(2 * dimensions))
    scale = 1.0 / (math.hypot(*numbers) or 1.0)
    return [number * scale for number in numbers]


def embeddings(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/embeddings."""
    _refuse_by_marker(context)
    value = body.get("input")
    if value is None:
        raise missing_parameter("input")
    inputs = embedding_inputs(value)
    if not isinstance(value, (str, list)) or not all(isinstance(item, (str, list)) and item for item in inputs):
        raise APIError(400, "'$.input' is invalid. Please check the API reference: it must be non-empty text.")
    model = str(body["model"])
    most = _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    dimensions = body.get("dimensions") or most
    if not isinstance(dimensions, int):
        raise invalid_type("dimensions", "an integer", dimensions)
    if not 0 < dimensions <= most:
        message = f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to {most}."
        raise APIError(400, message, param="dimensions")
    encoding = body.get("encoding_format", "float")
    if encoding not in {"float", "base64"}:
        raise invalid_value("encoding_format", encoding, ("float", "base64"))
    data = []
    spent = 0
    for index, item in enumerate(inputs):
        vector: Any = unit_vector(item if isinstance(item, str) else repr(item), dimensions)
        if encoding == "base64":
            vector = base64.b64encode(array("f", vector).tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
        spent += tokens.count(item) if isinstance(item, str) else len(item)
    usage = {"prompt_tokens": spent, "total_tokens": spent}
    return {"object": "list", "data": data, "model": snapshot(model), "usage": usage}, Usage(spent)


def moderation(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/moderations, by a few words. An array of typed parts is one input, an array of strings several."""
    value = body.get("input")
    if value is None:
        raise missing_parameter("input")
    several = isinstance(value, list) and all(isinstance(item, str) for item in value)
    model = str(body.get("model") or "omni-moderation-latest")
    results = [_moderate(prompts.content_text(item)) for item in (value if several else [value])]
    return {"id": f"modr-{context.key}", "model": snapshot(model), "results": results}, Usage()


def _moderate(text: str) -> dict[str, Any]:
    words = text.lower()
    hits = {name for name, signs in _FLAGGED.items() if any(sign in words for sign in signs)}
    return {
        "flagged": bool(hits),
        "categories": {name: name in hits for name in _CATEGORIES},
        "category_scores": {name: 0.9 if name in hits else 0.0001 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] if name in hits else [] for name in _CATEGORIES},
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(seed: str) -> str:
    """Return a PNG of one pixel, base64, whose colour depends on ``seed``."""
    colour = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=3).digest()
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" + colour)) + _chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def image_generation(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/images/generations."""
    _refuse_by_marker(context)
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise missing_parameter("prompt") if prompt is None else invalid_type("prompt", "a string", prompt)
    try:
        number = int(body.get("n") or 1)
    except (TypeError, ValueError):
        raise invalid_type("n", "an integer", body["n"]) from None
    quality = body.get("quality") if body.get("quality") in _IMAGE_TOKENS else "medium"
    spent, made = tokens.count(prompt), _IMAGE_TOKENS[str(quality)] * number
    size = body.get("size")
    answer = {
        "created": context.now,
        "background": "opaque",
        "data": [{"b64_json": picture(f"{index} {prompt}")} for index in range(number)],
        "output_format": "png",
        "quality": quality,
        "size": "1024x1024" if size in {None, "auto"} else size,
        "usage": {
            "input_tokens": spent,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": spent},
            "output_tokens": made,
            "output_tokens_details": {"image_tokens": made, "text_tokens": 0},
            "total_tokens": spent + made,
        },
    }
    return answer, Usage(spent, made)


def image_edit(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/images/edits; in a batch the pictures are ``images``, in a form ``image``."""
    if not any(body.get(name) for name in ("images", "image", "image[]")):
        raise missing_parameter("images")
    return image_generation(context, body)


def video(context: Context, body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    """Answer /v1/videos: a job that is done already."""
    _refuse_by_marker(context)
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise missing_parameter("prompt") if prompt is None else invalid_type("prompt", "a string", prompt)
    answer = {
        "id": f"video_{context.key}",
        "object": "video",
        "created_at": context.now,
        "completed_at": context.now,
        "expires_at": context.now + 86_400,
        "error": None,
        "model": snapshot(str(body.get("model") or "sora-2")),
        "progress": 100,
        "prompt": prompt,
        "remixed_from_video_id": None,
        "seconds": str(body.get("seconds") or "4"),
        "size": body.get("size") or "720x1280",
        "status": "completed",
    }
    return answer, Usage(tokens.count(prompt))
