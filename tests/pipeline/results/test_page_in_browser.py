"""The page in a real browser: keyboard, divider, theme, no network, no script error."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.results.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
KEYS = {"Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine's PATH")


# Chromium reads commands on descriptor 3 and answers on 4.
PLACE_AND_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 60  # seconds for one answer


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are above those that Chromium wants."""
    reading, writing = os.pipe()
    moved = fcntl.fcntl(reading, fcntl.F_DUPFD, 10), fcntl.fcntl(writing, fcntl.F_DUPFD, 10)
    os.close(reading)
    os.close(writing)
    return moved


class Page:
    """A browser tab driven by the DevTools protocol over a pipe: JSON messages, each ended by a zero byte."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER
        commands, self._send = _pipe()
        self._receive, answers = _pipe()
        command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PLACE_AND_START, str(commands), str(answers), *command],
            pass_fds=(commands, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._pending, self._count, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._receive], [], [], PATIENCE)
            assert ready, f"the browser has said nothing for {PATIENCE} s"
            read = os.read(self._receive, 1 << 20)
            assert read, "the browser has gone"
            self._pending += read
        answer, self._pending = self._pending.split(b"\0", 1)
        message = dict(json.loads(answer))
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._next()

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, path: Path, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        os.close(self._send)
        os.close(self._receive)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(browser: Page, write_run: Callable[..., str], ok_row: Any, error_row: Any) -> Page:
    rows = [
        *(ok_row(f"photo-{i}", i, side=48) for i in range(5)),
        error_row("<script>window.hit = 1</script>"),
    ]
    browser.events.clear()
    browser.prefer("light")
    browser.resize(1200, 900)
    browser.open("file://" + write_report(write_run({"a": rows})))
    return browser


FOCUSED = "document.activeElement.closest('.card')?.ariaLabel"


def test_keyboard_moves_the_divider_and_goes_from_image_to_image(page: Page) -> None:
    for _ in range(12):
        page.press("Tab")
        if page.evaluate("document.activeElement.className") == "slider":
            break
    first = page.evaluate(FOCUSED)
    assert first == page.evaluate("document.querySelector('.card').ariaLabel")
    before = page.evaluate("Number(document.activeElement.value)")
    for _ in range(3):
        page.press("ArrowRight")
    assert page.evaluate("Number(document.activeElement.value)") == before + 3
    assert page.evaluate("document.activeElement.parentElement.style.getPropertyValue('--split')") == "53%"
    assert page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    page.press("ArrowDown")
    assert page.evaluate(FOCUSED) == page.evaluate("document.querySelectorAll('.card')[1].ariaLabel")
    page.press("ArrowUp")
    assert page.evaluate(FOCUSED) == first


def test_pointer_drags_the_divider(page: Page) -> None:
    page.evaluate("document.querySelector('.stage').scrollIntoView({block: 'center'})")
    box = page.evaluate("document.querySelector('.stage').getBoundingClientRect().toJSON()")
    y = box["y"] + box["height"] / 2
    page.mouse("mousePressed", box["x"] + box["width"] * 0.5, y)
    page.mouse("mouseMoved", box["x"] + box["width"] * 0.25, y)
    page.mouse("mouseReleased", box["x"] + box["width"] * 0.25, y)
    assert abs(page.evaluate("Number(document.querySelector('.slider').value)") - 25) <= 1


def test_restored_is_compared_with_the_measurement_or_the_original(page: Page) -> None:
    shown = "document.querySelector('.stage-before').src == document.querySelector('.strip img[alt=%s]').src"
    assert page.evaluate(shown % "measurement")
    page.evaluate("document.querySelector('.against [data-label=original]').click()")
    assert page.evaluate(shown % "original")
    assert page.evaluate("document.querySelector('.tag-before').textContent") == "original"


def test_every_image_loads_and_small_ones_stay_pixelated(page: Page) -> None:
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.stage-after')).imageRendering")
        == "pixelated"
    )


def test_theme_follows_the_system_and_the_toggle(page: Page) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.prefer("dark")
    dark = page.evaluate(colour)
    assert light != dark
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(colour) == light


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.resize(width, 800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_is_fetched_run_or_complained_about(page: Page) -> None:
    page.evaluate("new Promise(requestAnimationFrame)")
    urls = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert [u for u in urls if not u.startswith(("data:", "file:"))] == []
    assert page.evaluate("window.hit === undefined")
    assert [
        e for e in page.events if e["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    ] == []
