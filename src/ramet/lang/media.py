"""Images and videos in prompts: where they come from, and how messages tell of them.

Knows files, bytes and the first bytes of formats; decodes nothing but what becomes frames of a video, with
Pillow. A medium's identity is a digest of its content, so equal images are equal in every cache.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Sequence
from typing import Any

from ramet.errors import InvalidRequest, Unsupported
from ramet.prompt import Media, Prompt

__all__ = ["content_of", "data_url", "media_of", "read_image", "read_video"]

_FORMATS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,([A-Za-z0-9+/=]*)\Z")


def read_image(source: Any, token: str) -> Media:
    """`source`: a path, the bytes of a file, a data URL, or an image of Pillow's. `token` stands for it in
    the text. Raises `InvalidRequest` for what is no image, `OSError` for a file that cannot be read."""
    data = _bytes_of(source)
    return Media("image", _digest(data), 0, token, data, _media_type(source, data))


def _bytes_of(source: Any) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, str) and (match := _DATA_URL.match(source)):
        return base64.b64decode(match.group(1), validate=True)
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return file.read()
    if hasattr(source, "save") and hasattr(source, "size"):
        buffer = io.BytesIO()
        source.save(buffer, format="PNG")
        return buffer.getvalue()
    raise InvalidRequest(
        "image", source, "is no image", "give a path, the bytes of a file, or a Pillow image"
    )


def _media_type(source: Any, data: bytes) -> str:
    for start, media_type in _FORMATS:
        if data.startswith(start):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    shown = source if isinstance(source, (str, os.PathLike)) else data[:12]
    raise InvalidRequest("image", shown, "is of no known format", "use PNG, JPEG, GIF, WebP or BMP")


def read_video(source: Any, num_frames: int, token: str) -> Media:
    """`num_frames` frames, evenly from the first to the last, as PNG files one behind the other. `source`:
    the path of an animated image (GIF, WebP, PNG), or a list of images."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
        raise InvalidRequest("num_frames", num_frames, "is not a number of frames")
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        if not source:
            raise InvalidRequest("video", source, "has no frames")
        frames = [_as_png(source[i]) for i in _evenly(len(source), num_frames)]
    else:
        frames = _frames_of_file(source, num_frames)
    data = b"".join(frames)
    return Media("video", _digest(data), 0, token, data, "image/png")


def _evenly(total: int, wanted: int) -> list[int]:
    return [i * (total - 1) // max(wanted - 1, 1) for i in range(wanted)]


def _pillow(what: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise Unsupported(f"{what} needs Pillow: pip install pillow") from error
    return Image


def _as_png(source: Any) -> bytes:
    data = _bytes_of(source)
    if data.startswith(_FORMATS[0][0]):
        return data
    with _pillow("a frame that is no PNG").open(io.BytesIO(data)) as image:
        return _bytes_of(image.convert("RGB"))


def _frames_of_file(path: Any, wanted: int) -> list[bytes]:
    library = _pillow("video()")
    try:
        with library.open(path) as film:
            frames = []
            for index in _evenly(getattr(film, "n_frames", 1), wanted):
                film.seek(index)
                frames.append(_bytes_of(film.convert("RGB")))
            return frames
    except library.UnidentifiedImageError as error:
        raise Unsupported(
            f"video({path!r}): only animated GIF, WebP and PNG are decoded here; for another format give "
            "a list of its frames"
        ) from error


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def data_url(media: Media) -> str:
    return f"data:{media.media_type};base64,{base64.b64encode(media.data).decode()}"


def media_of(prompt: Prompt, since: Prompt | None = None) -> list[tuple[str, str]]:
    """(kind, content in base64) of each medium, in order."""
    return [
        (span.kind, base64.b64encode(span.data).decode())
        for span in prompt.spans(since)
        if isinstance(span, Media)
    ]


def content_of(prompt: Prompt, since: Prompt, strip: bool = True) -> str | list[dict[str, Any]]:
    """A message's content, in OpenAI form: the text, without white space in front if `strip`; with media a
    list of one text part, without the marks of the media, and a part for each of them."""
    spans = prompt.spans(since=since)
    media = [span for span in spans if isinstance(span, Media)]
    text = "".join(span.text for span in spans if not isinstance(span, Media))
    if strip:
        text = text.lstrip()
    if not media:
        return text
    return [{"type": "text", "text": text}, *map(_part, media)]


def _part(media: Media) -> dict[str, Any]:
    kind = f"{media.kind}_url"
    return {"type": kind, kind: {"url": data_url(media)}}
