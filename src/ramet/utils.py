"""Helpers of benchmark scripts, under the path that they import. Nothing in Ramet uses them."""

from __future__ import annotations

import json as json_library
import os
import shutil
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ramet.errors import InvalidRequest

__all__ = [
    "HttpResponse",
    "download_and_cache_file",
    "dump_state_text",
    "http_request",
    "read_jsonl",
]

_SECONDS = 600.0  # of silence before a request fails


def read_jsonl(filename: str) -> Iterator[Any]:
    """The values of a file with one JSON value per line; lines that start with `#` and empty ones are
    skipped."""
    with open(filename, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                yield json_library.loads(line)


def dump_state_text(filename: str, states: Sequence[Any], mode: str = "w") -> None:
    """Write the text of each state (or each string) between numbered rulers."""
    with open(filename, mode, encoding="utf-8") as file:
        for index, state in enumerate(states):
            text = state if isinstance(state, str) else state.text()
            ruler = "=" * 40
            file.write(f"{ruler} {index} {ruler}\n{text}\n{ruler * 2}\n\n")


class HttpResponse:
    """An answer of `http_request`, whatever its status. Iterate over lines of one that streams."""

    def __init__(self, response: Any) -> None:
        self.response = response

    @property
    def status_code(self) -> int:
        return int(self.response.status)

    def json(self) -> Any:
        return json_library.loads(self.response.read())

    def iter_lines(self) -> Iterator[bytes]:
        """Lines without their ends, as they come."""
        with self.response as lines:
            for line in lines:
                yield line.rstrip(b"\r\n")

    __iter__ = iter_lines


def http_request(
    url: str,
    json: Any = None,
    stream: bool = False,
    api_key: str | None = None,
    verify: str | None = None,
    method: str | None = None,
) -> HttpResponse:
    """POST `json` to a server, or GET without it. `verify` is a file of certificates to trust. A status
    that tells of an error is no exception; no connection is (`OSError`). With `stream` read the answer
    with `iter_lines`; without, it is the same object."""
    _check_address(url)
    headers = {"Content-Type": "application/json; charset=utf-8"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    if stream:
        headers["Accept"] = "text/event-stream"
    data = None if json is None else json_library.dumps(json).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    context = None if verify is None else ssl.create_default_context(cafile=verify)
    try:
        return HttpResponse(urllib.request.urlopen(request, timeout=_SECONDS, context=context))
    except urllib.error.HTTPError as error:
        return HttpResponse(error)


def download_and_cache_file(url: str, filename: str | None = None) -> str:
    """Download `url` unless `filename` (in the folder for temporary files, by the address's last part) is
    there. Returns the file's name. A download that breaks off leaves no file."""
    _check_address(url)
    if filename is None:
        last = os.path.basename(urllib.parse.urlparse(url).path)
        if not last:
            raise InvalidRequest("url", url, "names no file", "give a filename")
        filename = os.path.join(tempfile.gettempdir(), last)
    if os.path.exists(filename):
        return filename
    folder = Path(filename).resolve().parent
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
        try:
            with urllib.request.urlopen(url, timeout=_SECONDS) as response:
                shutil.copyfileobj(response, part)
            part.close()
            os.replace(part.name, filename)
        except BaseException:
            os.unlink(part.name)
            raise
    return filename


def _check_address(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest("url", url, "is no address of a server", "write http://...")
