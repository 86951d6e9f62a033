"""Fetch the libraries of the server's page from npm, as they were published.

    python docs/vendor_page.py

Needs npm, which checks each package against the registry's hash. Writes the files of `LIBRARIES` and their
licences to src/ramet/server/page/vendor, and vendor.json, which says what lies there: names, versions,
licences, hashes. A test compares the files with it. To move to another version, change it here and run.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "src/ramet/server/page/vendor"
MAX_FILE = 4 << 20  # bytes


@dataclass(frozen=True)
class Library:
    """`copies`: path in the package -> name here."""

    name: str
    version: str
    licence: str
    copies: dict[str, str] = field(default_factory=dict)


LIBRARIES = (
    Library(
        "echarts",
        "6.1.0",
        "Apache-2.0",
        {
            "dist/echarts.min.js": "echarts.min.js",
            "LICENSE": "echarts.LICENSE.txt",
            "NOTICE": "echarts.NOTICE.txt",
            "licenses/LICENSE-d3": "echarts.LICENSE-d3.txt",
        },
    ),
    # Its code is inside echarts.min.js, so its licence belongs here, too.
    Library("zrender", "6.1.0", "BSD-3-Clause", {"LICENSE": "zrender.LICENSE.txt"}),
)


def packed(library: Library, folder: Path) -> Path:
    """The package, downloaded and checked by npm."""
    command = ["npm", "pack", f"{library.name}@{library.version}", "--json", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
    (about,) = json.loads(done.stdout)
    if (about["name"], about["version"]) != (library.name, library.version):
        raise SystemExit(f"npm gave {about['name']} {about['version']} for {library}")
    return folder / str(about["filename"])


def contents(archive: Path, library: Library) -> dict[str, bytes]:
    """The files that are wanted, by their name here. Nothing is unpacked to disk."""
    found = {}
    with tarfile.open(archive, "r:gz") as tar:
        for path, name in library.copies.items():
            member = tar.getmember(f"package/{path}")
            source = tar.extractfile(member)
            if source is None or member.size > MAX_FILE:
                raise SystemExit(
                    f"{path} of {library.name} is no plain file of at most {MAX_FILE} bytes"
                )
            found[name] = source.read()
    return found


def main() -> None:
    VENDOR.mkdir(parents=True, exist_ok=True)
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        for library in LIBRARIES:
            files = contents(packed(library, Path(folder)), library)
            for name, body in sorted(files.items()):
                (VENDOR / name).write_bytes(body)
                entries.append(
                    {
                        "name": library.name,
                        "version": library.version,
                        "licence": library.licence,
                        "file": name,
                        "sha256": hashlib.sha256(body).hexdigest(),
                    }
                )
    (VENDOR / "vendor.json").write_text(json.dumps(entries, indent=2) + "\n", "utf-8")
    print(f"{len(entries)} files in {VENDOR}", file=sys.stderr)


if __name__ == "__main__":
    main()
