"""The explorer's page in a headless Chromium: it loads, each tab does its work, and nothing leaves this machine.

RANDAR_SCREENSHOTS=benchmarks/results/explore writes the pictures that are kept there.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from randar_features import Model, load_model
from randar_features.cli.explore.collection import open_collection
from randar_features.cli.explore.pictures import Captioned
from tests.small_models import write_folder

PATIENCE = 180_000  # milliseconds, on a machine that is busy
CALM = """
const draw = window.requestAnimationFrame.bind(window)
window.requestAnimationFrame = then => setTimeout(() => draw(then), 400)
window.cancelAnimationFrame = number => clearTimeout(number)
const still = "<style>* { animation: none !important; transition: none !important }</style>"
addEventListener("DOMContentLoaded", () => document.head.insertAdjacentHTML("beforeend", still))
"""
"""Few frames and nothing that moves: without a GPU the editor's canvas, drawn in every frame, takes a core."""


@pytest.fixture(scope="module")
def address(photos: Path, tmp_path_factory: pytest.TempPathFactory, small_model: Model) -> Iterator[str]:
    """Of the page of the photographs, through a small model unless pictures are wanted."""
    pytest.importorskip("gradio")  # here, since the import takes seconds in each process of the tests
    from randar_features.cli.explore.page import Explorer, Page, serve

    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(scratch))
        model = "randar-tiny" if "RANDAR_SCREENSHOTS" in os.environ else small_model
        page = Page(Explorer(open_collection(str(photos), scratch, model=model, progress=False), scratch))
        started: queue.Queue[str] = queue.Queue()
        threading.Thread(target=serve, args=(page, None, started.put), daemon=True).start()
        yield started.get(timeout=60)


def keep(page: Any, name: str) -> None:
    """A picture of the page, where one is wanted."""
    if folder := os.environ.get("RANDAR_SCREENSHOTS"):
        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1500)
        page.screenshot(path=path, full_page=True)
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def shown(page: Any, where: str, count: int) -> list[str]:
    """The captions of a gallery, once it has `count` pictures."""
    page.wait_for_function(f"document.querySelectorAll('#{where} button img').length == {count}", timeout=PATIENCE)
    return page.locator(f"#{where} .caption-label").all_inner_texts()


def test_each_tab_does_its_work(address: str, browser: Any, photos: Path):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE)
    page.add_init_script(CALM)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
    page.goto(address)
    assert "image 0, china" in shown(page, "thumbnails", 18)

    page.click("#draw-maps")
    page.get_by_text("there is no image").wait_for()

    page.locator("#image input[type=file]").set_input_files(photos / "flower" / "1.png")
    page.locator("#image img").wait_for()
    page.get_by_role("tab", name="Neighbours").click()
    page.click("#find")
    assert "flower" in shown(page, "neighbours-shown", 12)[0]  # of a picture that is dropped too

    page.get_by_role("tab", name="Maps").click()
    dropped = page.locator("#image img").get_attribute("src")
    page.locator("#thumbnails button img").nth(3).click()
    page.wait_for_selector(f"#image img:not([src='{dropped}'])")
    page.click("#draw-maps")
    captions = shown(page, "maps-shown", 4)
    assert captions[0] == "image" and [one.split("/")[0] for one in captions[1:]] == ["single", "repeat", "reverse"]
    keep(page, "maps")

    page.get_by_role("tab", name="Points").click()
    page.wait_for_function("document.querySelector('#click img')?.src == document.querySelector('#image img').src")
    page.locator("#click img").click(position={"x": 60, "y": 60})
    captions = shown(page, "points-shown", 6)
    assert captions[0] == "the point" and all("cosine" in one for one in captions[1:])
    keep(page, "points")

    page.get_by_role("tab", name="Neighbours").click()
    page.click("#find")
    nearest = "document.querySelector('#neighbours-shown .caption-label').textContent"
    page.wait_for_function(f"{nearest}.includes('china')", timeout=PATIENCE)  # no longer those of the dropped picture
    captions = shown(page, "neighbours-shown", 12)
    assert captions[0].startswith("image") and "china" in captions[0] and "image 3," not in " ".join(captions)

    page.get_by_role("tab", name="Edit").click()
    page.click("#inpaint")
    page.get_by_text("nothing is painted").wait_for()
    paint(page)
    page.click("#inpaint")
    assert shown(page, "edited-shown", 2) == ["image", "painted part drawn anew, seed 0"]
    keep(page, "edit")
    page.click("#outpaint")
    page.get_by_text("drawn beyond the edges, seed 0").wait_for()

    page.get_by_role("tab", name="Order").click()
    page.click("#animate")
    assert page.locator("#animation img").get_attribute("src", timeout=PATIENCE).endswith(".gif")

    page.get_by_role("tab", name="Surprisal").click()
    page.click("#draw-surprisal")
    assert "nats a token" in shown(page, "surprisals-shown", 3)[2]
    keep(page, "surprisal")
    assert hosts - {""} == {address.removeprefix("http://")}


def paint(page: Any) -> None:
    """One stroke across the middle of the editor's canvas."""
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x, y + 10, steps=4)
    page.mouse.move(x + 30, y, steps=4)
    page.mouse.up()


@pytest.mark.parametrize("path", ["/etc/passwd", "china/0.png", "README.md"])
def test_no_file_is_served(address: str, photos: Path, path: str):
    for wanted in {path, str(photos / path), str(Path(path).absolute())}:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/gradio_api/file={wanted}")
        assert refused.value.code in (403, 404)


def test_another_name_of_this_machine_is_refused(address: str):
    """Else a page elsewhere whose name comes to mean 127.0.0.1 could read this one."""
    request = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 400


@pytest.mark.parametrize("architecture", ["llamagen", "arpg"])
def test_there_is_a_page_for_every_kind_of_model(photos: Path, tmp_path: Path, architecture: str):
    pytest.importorskip("gradio")
    from randar_features.cli.explore.page import Explorer, Page

    model = load_model(write_folder(tmp_path / "model", architecture=architecture), device="cpu")
    explorer = Explorer(open_collection(str(photos / "china"), tmp_path, model=model, progress=False), tmp_path)
    Page(explorer)
    with pytest.raises(ValueError, match="tick"):
        explorer._specs([], ["image"], [0])
    assert explorer.surprisal(str(photos / "china/0.png"), 0, 1)


def test_a_picture_that_is_shown_twice_is_written_once(tmp_path: Path):
    """gradio would write it anew for the next component, while another button reads it."""
    pytest.importorskip("gradio")
    from randar_features.cli.explore.page import filed

    picture, other = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (4, 16), "red")
    first, number = filed((picture, 3), tmp_path)
    written = os.stat(first)
    again = filed({"background": picture.copy(), "layers": [], "composite": None}, tmp_path)
    assert again == {"background": first, "layers": [], "composite": None} and number == 3
    assert os.stat(first) == written and Image.open(first).tobytes() == picture.tobytes()
    assert filed([Captioned(other, "other")], tmp_path)[0][0] != first


def test_an_open_page_does_not_keep_the_server_from_its_end():
    """Its browser holds a stream, which ends with the server alone."""
    gradio = pytest.importorskip("gradio")
    import uvicorn

    from randar_features.cli.explore.page import ADDRESS, Server, application

    page: Any = SimpleNamespace(blocks=gradio.Blocks(analytics_enabled=False))
    server = Server(uvicorn.Config(application(page), log_level="warning"))
    with socket.create_server((ADDRESS, 0)) as listening:
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        running.start()
        port = listening.getsockname()[1]
        with urllib.request.urlopen(f"http://{ADDRESS}:{port}/gradio_api/heartbeat/page", timeout=60) as stream:
            assert stream.readline() == b"data: ALIVE\n"
            server.should_exit = True
            running.join(20)
            assert not running.is_alive()
