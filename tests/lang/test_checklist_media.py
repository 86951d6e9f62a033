"""Images and videos in programs: in the text, in the messages, and what a backend gets of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from tests.backends.native_server import NativeServer

import ramet as sgl
from ramet import RuntimeEndpoint
from ramet.backend import Capabilities
from ramet.backends.scripted import Scripted
from ramet.errors import InvalidRequest, ProgramError, Unsupported
from ramet.lang.media import read_image, read_video

# The smallest files of their kinds.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
SEES = Capabilities(images=True, regex=True)


def seeing(*args: Any, **options: Any) -> Scripted:
    return Scripted(*args, capabilities=SEES, **options)


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@sgl.function
def question(s, picture, text):
    s += sgl.user(sgl.image(picture) + text)
    s += sgl.assistant(sgl.gen("answer"))


def test_a_question_about_an_image(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(PNG)
    backend = seeing(lambda _: "A dot.")
    state = question.run(str(file), "What is this?", backend=backend)
    assert state.text() == "USER:<image>What is this?\nASSISTANT:A dot.\n"
    assert state.messages() == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": url(PNG)}},
            ],
        },
        {"role": "assistant", "content": "A dot."},
    ]
    assert backend.calls[0].messages == tuple(state.messages()[:1])


@pytest.mark.parametrize("form", ["path", "bytes", "data url", "pillow", "memory"])
def test_forms_of_an_image(form: str, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "x.png").write_bytes(PNG)
    source: Any = {
        "path": tmp_path / "x.png",
        "bytes": PNG,
        "data url": url(PNG),
        "pillow": Image.open(io.BytesIO(PNG)),
        "memory": memoryview(PNG),
    }[form]
    media = read_image(source, "<img>")
    assert (media.kind, media.media_type, media.text) == ("image", "image/png", "<img>")
    with Image.open(io.BytesIO(media.data)) as image:
        assert image.size == (1, 1)
    if form != "pillow":
        assert media == read_image(PNG, "<img>")  # what it is, wherever it comes from
    assert media.digest != read_image(GIF, "<img>").digest


@pytest.mark.parametrize("source", [b"no image", b"", 5, ["x"], None])
def test_what_is_no_image(source: Any) -> None:
    with pytest.raises(InvalidRequest, match="image"):
        read_image(source, "")


def test_a_file_that_is_not_there_is_an_error_of_the_line() -> None:
    state = question.run("no-such-file.png", "?", backend=seeing())
    error = state.error()
    assert isinstance(error, ProgramError)
    assert isinstance(error.__cause__, FileNotFoundError)
    assert error.location == f"{__file__}:{question.func.__code__.co_firstlineno + 2}"


def test_a_backend_that_sees_nothing_says_so() -> None:
    with pytest.raises(
        Unsupported, match=r"image\(\.\.\.\) is not possible on the backend Scripted"
    ):
        question.run(PNG, "?", backend=Scripted())

    @sgl.function
    def film(s):
        s += sgl.video([PNG], 2)

    with pytest.raises(Unsupported, match="video"):
        film.run(backend=Scripted())


@sgl.function
def compare(s, one, other):
    with s.user():
        s += "Compare " + sgl.image(one)
        forks = s.fork(2)
        forks += lambda i: ([" with "] + [sgl.image(other)] * i) + [sgl.gen("seen", stop=">")]
        forks.join("concatenate_and_append")
    s += sgl.assistant(sgl.gen("answer"))


@pytest.mark.parametrize("style", ["ramet", "sglang"])
def test_several_images_and_branches_on_a_server(style: str) -> None:
    backend = seeing()
    with NativeServer(backend, style, info={"has_image_understanding": True}) as server:
        state = compare.run(PNG, GIF, backend=RuntimeEndpoint(server.url))
        assert state.text() == compare.run(PNG, GIF, backend=seeing()).text()
        content = state.messages()[0]["content"]
        bodies = [b for b in server.bodies() if b["sampling_params"]["max_new_tokens"]]
    assert [part["type"] for part in content] == ["text", "image_url", "image_url"]
    png, gif = (base64.b64encode(data).decode() for data in (PNG, GIF))
    assert sorted(body["image_data"] for body in bodies) == sorted([[png], [png, gif], [png, gif]])
    for body in bodies:
        text = body.get("text") or "".join(s for s in body["spans"] if isinstance(s, str))
        assert text.count("<image>") == len(body["image_data"])


@pytest.mark.parametrize("style", ["ramet", "sglang"])
def test_a_choice_about_an_image(style: str) -> None:
    @sgl.function
    def program(s):
        s += sgl.image(PNG) + "Is it red?" + sgl.select("red", [" yes", " no"])

    with NativeServer(seeing(), style, info={"has_image_understanding": True}) as server:
        state = program.run(backend=RuntimeEndpoint(server.url))
        assert state["red"] == program.run(backend=seeing())["red"]
        paths = {"ramet": "/score_choices", "sglang": "/generate"}
        assert all("image_data" in body for body in server.bodies(paths[style]))
        assert server.bodies("/tokenize") == []  # it does not know what an image takes


def test_a_video_is_its_frames() -> None:
    from PIL import Image

    frames = [Image.new("RGB", (2, 2), (40 * i, 0, 0)) for i in range(6)]
    film = io.BytesIO()
    frames[0].save(film, "GIF", save_all=True, append_images=frames[1:], loop=0)
    path = io.BytesIO(film.getvalue())
    media = read_video(path, 3, "<video>")
    found = reds(media.data)
    assert len(found) == 3
    assert found[0] < found[1] < found[2]
    assert reds(read_video(frames, 3, "").data) == [0, 80, 200]  # frames 0, 2 and 5
    assert reds(read_video(frames[:2], 4, "").data) == [0, 0, 0, 40]  # repeated where there are few

    @sgl.function
    def program(s):
        s += sgl.user(sgl.video(frames, 2) + "What moves?") + sgl.gen("x")

    with NativeServer(seeing(), "sglang", info={"has_image_understanding": True}) as server:
        program.run(backend=RuntimeEndpoint(server.url)).sync()
        (sent,) = server.bodies()[0]["image_data"]
    assert sent.startswith("video:iVBOR")


def reds(data: bytes) -> list[int]:
    """The first pixel's red of each of the PNG files that stand one behind the other."""
    from PIL import Image

    start = PNG[:8]
    return [
        Image.open(io.BytesIO(start + part)).convert("RGB").getpixel((0, 0))[0]
        for part in data.split(start)[1:]
    ]


@pytest.mark.parametrize("frames", [0, -1, 1.5, True])
def test_numbers_of_frames(frames: Any) -> None:
    with pytest.raises(InvalidRequest, match="num_frames"):
        read_video([PNG], frames, "")


def test_films_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(Unsupported, match="list of its frames"):
        read_video(tmp_path / "film.mp4", 2, "")
    with pytest.raises(InvalidRequest, match="no frames"):
        read_video([], 2, "")
