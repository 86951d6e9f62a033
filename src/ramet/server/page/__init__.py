"""The files of the live page, and the policy that they are sent with.

Knows which files there are, their types and hashes, and what the browser may do with them; refuses to know
routes and sockets. What the page shows comes from clients and models, so it is hostile until shown
otherwise: the scripts put it into text nodes only, and the policy allows no script, style, frame, picture
or connection but the server's own, and no text that becomes HTML (the page's one rule for that, in
`trust.js`, lets through the empty text, with which the charts' library clears its elements).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

__all__ = ["ASSETS", "PAGE_HEADERS", "Asset", "assets"]

PAGE_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types default"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",  # kept, and asked about by its hash
    }
)

# Path as a browser asks for it -> media type. Nothing else in the folder is ever sent.
ASSETS: Mapping[str, str] = MappingProxyType(
    {
        "/": "text/html; charset=utf-8",
        "/page/page.css": "text/css; charset=utf-8",
        "/page/icon.svg": "image/svg+xml",
        **{
            f"/page/{name}.js": "text/javascript; charset=utf-8"
            for name in (
                "bars",
                "charts",
                "chat",
                "eviction",
                "feed",
                "key",
                "layout",
                "page",
                "requests",
                "text",
                "tree",
                "tree_text",
                "trust",
                "view",
                "vendor/echarts.min",
            )
        },
    }
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `etag` as it stands in the header, quotes included; `gzipped` is the same body packed."""

    body: bytes
    gzipped: bytes
    media_type: str
    etag: str

    def response(self, request: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a GET with these headers (names in lower case)."""
        headers = {**PAGE_HEADERS, "ETag": self.etag, "Vary": "Accept-Encoding"}
        known = [tag.strip() for tag in request.get("if-none-match", "").split(",")]
        if self.etag in known or f"W/{self.etag}" in known:
            return 304, headers, b""
        headers["Content-Type"] = self.media_type
        body = self.body
        if "gzip" in request.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = self.gzipped
        return 200, headers, body


@functools.cache
def assets() -> Mapping[str, Asset]:
    """All files of the page by their path, read and packed once."""
    folder = resources.files(__package__)
    found = {}
    for path, media_type in ASSETS.items():
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        body = folder.joinpath(*name.split("/")).read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        found[path] = Asset(body, gzip.compress(body, 6, mtime=0), media_type, etag)
    return MappingProxyType(found)
