"""The live page: its files, and in a headless browser against a server without a model."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.server.devtools import Browser, Tab, find_browser
from tests.server.page_server import FakeServer

from ramet.server.page import ASSETS, PAGE_HEADERS, assets

FOLDER = Path(__file__).parents[2] / "src/ramet/server/page"
TREE = "document.getElementById('tree')"
NODES = f"Number({TREE}.dataset.nodes)"
LIVE = "document.body.dataset.connection === 'live'"
LAST = "[...document.querySelectorAll('article.assistant')].at(-1)"
ANSWERED = f"!!{LAST} && !{LAST}.hasAttribute('aria-busy')"


# -- files ---------------------------------------------------------------------------------------------


def test_libraries_are_as_published() -> None:
    entries = json.loads((FOLDER / "vendor/vendor.json").read_text("utf-8"))
    for entry in entries:
        body = (FOLDER / "vendor" / entry["file"]).read_bytes()
        assert hashlib.sha256(body).hexdigest() == entry["sha256"], entry["file"]
    there = {path.name for path in (FOLDER / "vendor").iterdir()}
    assert there == {entry["file"] for entry in entries} | {"vendor.json"}
    for entry in entries:
        assert f"{entry['name']}.LICENSE.txt" in there


def test_every_file_is_sent_and_none_is_missing() -> None:
    shipped = {
        path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*") if path.is_file()
    }
    shipped = {p for p in shipped if p.endswith((".js", ".css", ".svg", ".html"))}
    assert shipped == {"index.html" if p == "/" else p.removeprefix("/page/") for p in ASSETS}
    source = (FOLDER / "index.html").read_text("utf-8")
    wanted = set(re.findall(r'(?:src|href)="([^"]+)"', source))
    for script in FOLDER.glob("*.js"):
        wanted |= {
            f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text("utf-8"))
        }
    assert {f"/{name}" for name in wanted} | {"/"} == set(ASSETS)


def test_nothing_inline_and_no_way_to_make_html() -> None:
    source = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", source)
    for script in FOLDER.glob("*.js"):
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script.read_text("utf-8")
        )
        assert not found, script.name
    assert "unsafe" not in PAGE_HEADERS["Content-Security-Policy"]


def test_a_file_is_packed_and_asked_about_by_its_hash() -> None:
    asset = assets()["/page/page.js"]
    status, headers, body = asset.response({"accept-encoding": "br, gzip"})
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == asset.body == asset.response({})[2]
    assert asset.response({"if-none-match": f'"other", {headers["ETag"]}'})[0] == 304
    assert asset.response({"if-none-match": '"other"'})[0] == 200


# -- in a browser --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("there is no Chromium on this machine")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    """Nothing that a test does may make the page complain, break its policy or be wider than it."""
    tab = browser.tab()
    yield tab
    wide = tab.value("document.documentElement.scrollWidth - innerWidth")
    tab.close()
    assert wide <= 0
    assert [c for c in tab.complaints if not c.startswith("network:")] == []


def say(tab: Tab, text: str) -> None:
    tab.value("document.getElementById('chat-field').focus()")
    tab.type(text)
    tab.press("Enter")


def test_a_chat_streams_and_its_tokens_appear(tab: Tab, server: FakeServer) -> None:
    server.step_seconds = 0.05
    tab.go(server.url)
    tab.wait(LIVE)
    assert tab.text("#model") == "scripted-words"
    assert not tab.value("document.getElementById('tree-empty').hidden")
    say(tab, "What is a radix tree?")
    tab.wait(f"{LAST}?.querySelector('.said').textContent.length > 20")
    assert tab.value(f"{LAST}.getAttribute('aria-busy')") == "true"  # it came in pieces
    tab.wait("!!document.querySelector('#requests-body tr[data-state=decoding]')")
    tab.wait(ANSWERED)
    assert tab.value(f"{LAST}.querySelector('.said').textContent").endswith("go first. ")
    assert "8 in, 0 cached (0 %) · 37 out" in tab.value(
        f"{LAST}.querySelector('.cost').textContent"
    )
    tab.wait(f"{NODES} >= 2 && document.getElementById('tree-empty').hidden")
    say(tab, "say yes")
    tab.wait(f"{ANSWERED} && {LAST}.querySelector('.said').textContent === 'yes'")
    cost = tab.value(f"{LAST}.querySelector('.cost').textContent")
    cached = re.search(r"in, (\d+) cached", cost)
    assert cached is not None
    assert int(cached[1]) > 40  # the first turn was not computed again
    tab.wait("document.getElementById('requests-body').children.length === 0")
    assert tab.text("#tile-hit") != "–"


def test_html_in_an_answer_stays_text(tab: Tab, server: FakeServer) -> None:
    tab.go(server.url)
    tab.wait(LIVE)
    evil = "<img src=x onerror=document.title='broken'> <script>document.title='broken'</script> &lt;b>"
    say(tab, f"say {evil}")
    tab.wait(ANSWERED)
    assert tab.value(f"{LAST}.querySelector('.said').textContent") == evil
    assert tab.value(f"{LAST}.querySelectorAll('.said *').length") == 0
    # ... and in the tree, where the same text is a label.
    tab.wait(f"{NODES} >= 2")
    tab.value(f"{TREE}.focus()")
    for key in ("ArrowRight", "ArrowRight"):
        tab.press(key)
    tab.wait("document.querySelector('#tree-card .title')?.textContent.includes('<img')")
    assert tab.value("document.querySelectorAll('#tree-card img').length") == 0
    assert tab.value("document.title") == "scripted-words · Ramet"


def test_no_text_becomes_html_at_all(tab: Tab, server: FakeServer) -> None:
    tab.go(server.url)
    tab.wait(LIVE)
    refused = "(() => { try { document.createElement('p').innerHTML = '<b>x</b>'; return ''; }"
    assert tab.value(f"{refused} catch (error) {{ return error.name; }} }})()") == "TypeError"
    tab.value("void (() => { const s = document.createElement('script'); s.id = 'extra'; "
              "try { s.textContent = '1'; document.body.append(s); } catch {} })()")  # fmt: skip
    assert any("Trusted" in c or "Content Security" in c for c in tab.complaints)
    tab.complaints.clear()


def test_the_tree_follows_the_server(tab: Tab, server: FakeServer) -> None:
    server.fill(40, ("", "acme"))
    tab.go(server.url)
    tab.wait(f"{NODES} >= 40")
    assert tab.text("#tree-tenants") == "tenant acme"
    before = tab.value(NODES)
    server.fill(60, ("", "acme"))
    tab.wait(f"{NODES} >= 60")
    assert tab.value(NODES) > before
    assert "node" in tab.text("#tree-news")
    with server.lock:
        server.core.tree.evict(400)
    left = server.core.tree.num_nodes + len(server.core.tree.roots)
    assert left < 60
    tab.wait(f"{NODES} === {left}")
    assert "evicted" in tab.text("#tree-news")
    with server.lock:
        server.core.flush()
    tab.wait(f"{NODES} === 0 && !document.getElementById('tree-empty').hidden")


def test_a_large_tree_is_folded_and_unfolds(tab: Tab, server: FakeServer) -> None:
    server.fill(260)
    tab.go(server.url)
    tab.wait(f"{NODES} >= 260")
    shown = f"Number({TREE}.dataset.shown)"
    tab.wait(f"{shown} > 5")
    assert tab.value(shown) < 60
    assert "folded" in tab.text("#tree-summary")
    tab.click("#tree-all")
    tab.wait(f"{shown} === {NODES}")
    made = tab.value(
        """(async () => {
          const { layout } = await import('/page/layout.js');
          const nodes = [{ id: 0, parent: null, tokens: 0, depth: 0, pins: 1, age_s: 0 }];
          for (let id = 1; id < 300; id++) {
            const parent = nodes[Math.floor(id / 7)];
            nodes.push({ id, parent: parent.id, tokens: id, depth: 1, pins: id === 299 ? 1 : 0, age_s: id });
          }
          for (let at = nodes[299]; at.parent !== null; at = nodes[at.parent]) nodes[at.parent].pins = 1;
          const few = layout(nodes, 20);
          const all = layout(nodes);
          const inside = few.items.flatMap((item) => item.inside ?? []).map((node) => node.id);
          const own = few.items.filter((item) => !item.inside).map((item) => item.node.id);
          return { rows: few.rows, used: own.includes(299), all: all.items.length,
                   once: new Set([...inside, ...own]).size, sum: inside.length + own.length };
        })()"""
    )
    assert made["rows"] <= 20
    assert made["used"]  # what is in use is never folded while there is room
    assert (made["all"], made["once"], made["sum"]) == (300, 300, 300)


def test_a_node_can_be_pointed_at_and_zoomed_into(tab: Tab, server: FakeServer) -> None:
    server.fill(12)
    tab.go(server.url)
    tab.wait(f"{NODES} >= 12")
    tab.value(f"{TREE}.focus()")
    for key in ("ArrowRight", "ArrowRight", "+", "+"):
        tab.press(key)
    card = tab.text("#tree-card")
    assert "tokens, at" in card
    assert "Cached, last used" in card
    assert tab.value(f"{TREE}.classList.contains('zoomed')")
    tab.press("0")
    assert not tab.value(f"{TREE}.classList.contains('zoomed')")
    tab.press("Escape")
    assert tab.value("document.getElementById('tree-card').hidden")


def test_the_page_comes_back_with_the_server(tab: Tab, server: FakeServer) -> None:
    server.fill(10)
    tab.go(server.url)
    tab.wait(f"{NODES} >= 10")
    server.stop()
    tab.wait("document.getElementById('connection').dataset.state === 'away'")
    assert "Server away" in tab.text("#connection")
    assert tab.value(NODES) >= 10  # what was known stays to be looked at
    server.start(server.port)
    tab.wait(LIVE, 15)
    assert tab.text("#connection") == "Live"
    tab.wait(f"{NODES} === 0")
    say(tab, "say here again")
    tab.wait(f"{ANSWERED} && {LAST}.querySelector('.said').textContent === 'here again'")
    tab.wait(f"{NODES} >= 2")


def test_an_answer_can_be_stopped_and_asked_for_again(tab: Tab, server: FakeServer) -> None:
    server.step_seconds = 0.1
    tab.go(server.url)
    tab.wait(LIVE)
    say(tab, "a long one")
    tab.wait(f"{LAST}?.querySelector('.said').textContent.length > 10")
    tab.click("#chat-stop")
    tab.wait(ANSWERED)
    assert tab.value(f"{LAST}.querySelector('.cost').textContent").endswith("stopped")
    deadline = time.monotonic() + 5
    while server.core.requests():  # the server hears of it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.step_seconds = 0.005
    tab.click(".again")
    tab.wait(f"{ANSWERED} && {LAST}.querySelector('.said').textContent.endsWith('go first. ')")
    assert tab.value("document.querySelectorAll('article').length") == 2


def test_what_the_server_refuses_is_said(tab: Tab, server: FakeServer) -> None:
    tab.go(server.url)
    tab.wait(LIVE)
    say(tab, "too much")
    tab.wait(ANSWERED)
    assert "the prompt has 9,000 tokens" in tab.value(
        f"{LAST}.querySelector('[role=alert]').textContent"
    )


def test_a_key_is_asked_for_and_kept(tab: Tab, server: FakeServer) -> None:
    server.keys = ("right",)
    tab.go(server.url)
    opened = "document.getElementById('key-dialog').open"
    tab.wait(opened)
    tab.type("wrong")
    tab.press("Enter")
    tab.wait("document.getElementById('key-problem').textContent !== ''")
    assert tab.value(opened)
    tab.type("right")
    tab.click("#key-form button.main")
    tab.wait(LIVE)
    say(tab, "say yes")
    tab.wait(f"{ANSWERED} && {LAST}.querySelector('.said').textContent === 'yes'")
    tab.go(server.url)
    tab.wait(LIVE)  # the tab still knows it
    tab.value("sessionStorage.clear()")
    tab.go(server.url)
    tab.wait(opened)
    tab.click("#key-cancel")
    tab.wait("document.body.dataset.connection === 'locked'")
    assert tab.text("#connection") == "Key needed"
    tab.click("#unlock")
    tab.wait(opened)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_is_wide_enough(browser: Browser, server: FakeServer, dark: bool) -> None:
    server.fill(30)
    tab = browser.tab(360, 740, phone=True, dark=dark)
    tab.go(server.url)
    tab.wait(f"{NODES} >= 30")
    tab.wait("document.querySelectorAll('canvas').length === 4")
    assert tab.value("document.documentElement.scrollWidth") == 360
    back = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", back)[0]) < 100) == dark
    # The picture's own pixels follow the colour scheme, too, also when it changes.
    tab.look(360, 740, phone=True, dark=not dark)
    pixel = f"""(() => {{ const c = {TREE}.querySelector('canvas');
      const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let sum = 0, n = 0;
      for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 250) {{ sum += d[i] + d[i + 1] + d[i + 2]; n++; }}
      return sum / n / 3; }})()"""
    tab.wait(f"{pixel} {'>' if dark else '<'} 128")
    tab.close()
    assert [c for c in tab.complaints if "getImageData" not in c] == []


def test_without_javascript_the_files_carry_the_policy() -> None:
    client = TestClient(FakeServer().app())
    for path, media_type in ASSETS.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == media_type
        assert answer.headers["content-security-policy"] == PAGE_HEADERS["Content-Security-Policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
