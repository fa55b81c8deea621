"""The page of the explorer: gradio components around `pictures` and `collection`.

It listens on this machine alone, serves no file but the pictures that it draws, and calls no other machine.
"""

import functools
import hashlib
import html
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from randar_features.cli.explore import pictures
from randar_features.cli.explore.collection import Collection
from randar_features.cli.explore.pictures import Captioned
from randar_features.data import load_image
from randar_features.features import FeatureSpec, model_specs
from randar_features.generation.animation import order_frames, save_animation
from randar_features.generation.classes import short_name
from randar_features.generation.complete import known_orders
from randar_features.precision import DType
from randar_features.store.files import written_whole

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
IDLE_SECONDS = 0.02  # between two looks for something to do; gradio's own 0.001 keeps a processor busy
THUMBNAILS, THUMBNAIL_SIDE = 24, 96
NO_CLASS = -1
ONLY_ORDER = "its only order"
DETAILS = {"as the model sees it": 1, "twice as fine": 2, "four times as fine": 4}
STYLE = """
.gradio-container { width: 100% !important; max-width: 1500px !important; margin: 0 auto !important; }
.caption-label { white-space: normal !important; max-width: 100% !important; }
#animation img { width: 100%; }
#message { position: sticky; top: 8px; z-index: 1; color: #b91c1c; font-weight: 600; }
#thumbnails .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
#thumbnails .caption-label { font-size: 10px !important; padding: 0 4px !important; }
"""


class Explorer:
    """What each button of the page does: values of components in, values of components out.

    Args:
        collection: that is explored.
        scratch: folder for animations.
        dtype: number format that maps and surprisal are computed in.
    """

    def __init__(self, collection: Collection, scratch: Path, dtype: DType = None) -> None:
        self.collection, self.scratch, self.dtype = collection, scratch, dtype
        self.model = collection.model
        self.side = pictures.side_of(self.model)

    def thumbnails(self, first: int) -> list[tuple[Image.Image, str]]:
        """Images of the collection from a number on."""
        numbers = range(int(first), min(int(first) + THUMBNAILS, len(self.collection)))
        found = self.collection.pictures(numbers, THUMBNAIL_SIDE)
        blank = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "lightgrey")
        unread = " cannot be read"
        return [
            (found.get(number, blank), self.collection.caption(number) + ("" if number in found else unread))
            for number in numbers
        ]

    def pick(self, number: int) -> Image.Image:
        """An image of the collection; ValueError for one that cannot be read."""
        found = self.collection.pictures([number], self.side)
        if number not in found:
            raise ValueError(f"image {number} cannot be read: choose another one")
        return found[number]

    def opened(self, path: str | None) -> Image.Image:
        """The image of the page; ValueError without one."""
        if path is None:
            raise ValueError("there is no image: pick one on the left, or drop one of yours")
        return load_image(path, **vars(self.collection.reading))

    def maps(
        self, path: str | None, contexts: list[str], reads: list[str], layers: list[int], detail: str
    ) -> list[Captioned]:
        """The tab of PCA maps."""
        image = self.opened(path)
        specs = self._specs(contexts, reads, layers)
        return pictures.pca_pictures(self.model, image, specs, detail=DETAILS[detail], dtype=self.dtype)

    def points(
        self,
        path: str | None,
        number: int | None,
        point: tuple[float, float],
        context: str,
        read: str,
        layer: int,
        detail: str,
        k: int,
    ) -> list[Captioned]:
        """The tab of points: the similarity map, and matches in the nearest images."""
        image = self.opened(path)
        [spec] = self._specs([context], [read], [layer])
        others = [near for near, _ in self._near(image, number, k)]
        return pictures.point_pictures(self.model, image, point, others, spec, detail=DETAILS[detail], dtype=self.dtype)

    def neighbours(self, path: str | None, number: int | None, k: int) -> list[Captioned]:
        """The tab of nearest images."""
        near = self._near(self.opened(path), number, k)
        return [Captioned(picture, f"{caption}, cosine {cosine:.2f}") for (picture, caption), cosine in near]

    def _near(self, image: Image.Image, number: int | None, k: int) -> list[tuple[Captioned, float]]:
        """The nearest images that can be read, best first, and their cosines."""
        hits = {hit["id"]: hit["score"] for hit in self.collection.neighbours(image, number, int(k))}
        found = self.collection.pictures(list(hits), self.side)
        named = {one: Captioned(picture, self.collection.caption(one)) for one, picture in found.items()}
        return [(named[one], cosine) for one, cosine in hits.items() if one in named]

    def inpaint(self, path: str | None, drawn: dict[str, Any] | None, class_index: int, seed: int) -> list[Captioned]:
        """Draw anew what was painted over."""
        image, mask = self.opened(path), painted(drawn)
        before = pictures.square(image, self.side)
        after = pictures.inpainted(self.model, image, mask, chosen(class_index), seed=int(seed))
        return [Captioned(before, "image"), Captioned(after, f"painted part drawn anew, seed {int(seed)}")]

    def outpaint(
        self, path: str | None, left: int, top: int, right: int, bottom: int, class_index: int, seed: int
    ) -> list[Captioned]:
        """Draw beyond the edges."""
        image = self.opened(path)
        after = pictures.outpainted(self.model, image, (left, top, right, bottom), chosen(class_index), seed=int(seed))
        before = pictures.square(image, self.side)
        return [Captioned(before, "image"), Captioned(after, f"drawn beyond the edges, seed {int(seed)}")]

    def animate(self, class_index: int, orders: list[str], seed: int) -> str:
        """An animation of decoding orders side by side, as a file."""
        if not orders:
            raise ValueError("no order is chosen: tick at least one")
        if class_index == NO_CLASS:
            class_index = self.model.transformer.config.num_classes
        named = [None if order == ONLY_ORDER else order for order in orders]
        path = self.scratch / f"orders-{class_index}-{int(seed)}-{'-'.join(orders).replace(' ', '_')}.gif"
        frames = order_frames(self.model, class_index, seed=int(seed), orders=named, side=self.side)
        save_animation(path, frames)
        return str(path)

    def surprisal(self, path: str | None, class_index: int, orders: int) -> list[Captioned]:
        """The tab of surprisal."""
        image, of_class = self.opened(path), chosen(class_index)
        return pictures.surprisal_pictures(self.model, image, of_class, orders=int(orders), dtype=self.dtype)

    def _specs(self, contexts: Sequence[str], reads: Sequence[str], layers: Sequence[int]) -> list[FeatureSpec]:
        if not (contexts and reads and layers):
            raise ValueError("nothing is chosen: tick at least one context, one read and one layer")
        return model_specs(self.model, context=list(contexts), read=list(reads), layers=list(map(int, layers)))


def painted(drawn: dict[str, Any] | None) -> np.ndarray:
    """Where the brush was, bool (H, W); ValueError if nowhere."""
    layers = [np.asarray(layer)[..., 3] > 0 for layer in (drawn or {}).get("layers", []) if layer is not None]
    if not layers or not np.any(layers):
        raise ValueError("nothing is painted: paint over what is to be drawn anew")
    return np.any(layers, axis=0)


def chosen(class_index: int) -> int | None:
    """The class of a drop-down list; None for none."""
    return None if class_index == NO_CLASS else int(class_index)


def filed(value: Any, folder: Path) -> Any:
    """`value` with every picture in it as a file of `folder`, named by its pixels and written whole.

    gradio writes a picture in place, and does so again for the next component that shows the same one, while the
    browser or another button reads it.
    """
    if isinstance(value, Image.Image):
        pixels = hashlib.sha256(f"{value.mode} {value.size}".encode() + value.tobytes())
        path = folder / f"{pixels.hexdigest()}.png"
        if not path.is_file():
            with written_whole(path) as file:
                value.save(file, "png")
        return str(path)
    if isinstance(value, dict):
        return {name: filed(part, folder) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [filed(part, folder) for part in value]
    return value


class Page:
    """The components, tab by tab. `blocks` is what gradio launches."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.transformer = explorer, explorer.model.transformer
        self.computing = threading.Lock()
        self.own = FeatureSpec.parse(explorer.collection.spec)
        title = f"{explorer.model.name}: {len(explorer.collection)} images"
        with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as self.blocks:
            gr.Markdown(f"### {html.escape(title)}")
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self.message = gr.HTML(elem_id="message")
                    self._choice()
                with gr.Column(scale=3, min_width=500), gr.Tabs():
                    self._maps()
                    self._points()
                    self._neighbours()
                    self._edit()
                    self._order()
                    self._surprisal()

    def _on(
        self,
        event: Callable[..., Any],
        work: Callable[..., Any],
        inputs: gr.components.Component | list[gr.components.Component],
        outputs: list[gr.components.Component],
    ) -> None:
        """At `event`, `work` makes what `outputs` show of what `inputs` hold, a tuple for several of them.

        One call at a time computes. An error is a line on the page. No event waits in gradio's queue: it sends all
        answers through one stream, which closes after the last one that it knows of and loses that of a click
        meanwhile.
        """

        @functools.wraps(work)
        def answer(*arguments: Any) -> list[Any]:
            try:
                with self.computing:
                    made = filed(work(*arguments), self.explorer.scratch)
            except Exception as error:
                if not isinstance(error, ValueError | OSError | IndexError | MemoryError):
                    logger.exception("the page met a fault of this program")
                message = " ".join(str(error).split()) or type(error).__name__
                return [*[gr.skip()] * len(outputs), html.escape(message)]
            return [*(made if len(outputs) > 1 else [made]), ""]

        event(answer, inputs, [*outputs, self.message], queue=False, show_progress_on=outputs)

    def _choice(self) -> None:
        """The image that all tabs are about: one of the collection, or one that is dropped."""
        explorer, count = self.explorer, len(self.explorer.collection)
        self.image = gr.Image(
            label="Image: drop one, or pick one below",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            format="png",
            height=300,
            buttons=[],
            elem_id="image",
        )
        self.number, shown = gr.State(None), gr.State(0)
        gallery = gr.Gallery(
            filed(explorer.thumbnails(0), explorer.scratch),
            label=f"{count} images",
            columns=3,
            height=420,
            allow_preview=False,
            format="png",
            buttons=[],
            interactive=False,
            elem_id="thumbnails",
        )
        last = max(0, (count - 1) // THUMBNAILS * THUMBNAILS)
        first = gr.Slider(0, last or 1, 0, step=THUMBNAILS, label="Show images from number", visible=last > 0)
        self._on(first.release, lambda value: (explorer.thumbnails(value), int(value)), first, [gallery, shown])

        def pick(start: int, event: gr.SelectData) -> tuple[Image.Image, int]:
            return explorer.pick(start + event.index), start + event.index

        self._on(gallery.select, pick, shown, [self.image, self.number])
        for event in (self.image.upload, self.image.clear):
            self._on(event, lambda: None, [], [self.number])

    def _spec(self) -> list[gr.components.Component]:
        """Choice of one feature: context, read, layer and detail."""
        with gr.Accordion("Feature", open=False):
            with gr.Row():
                context = gr.Radio(self._contexts, value=self.own.context, label="Context")
                read = gr.Radio(list(self.transformer.reads), value=self.own.read, label="Read")
            with gr.Row():
                layer = gr.Slider(0, self._last_layer, self.own.layer, step=1, label="Layer")
                detail = self._detail()
        return [context, read, layer, detail]

    def _detail(self) -> gr.Radio:
        coarse = self.transformer.config.grid < 16
        return gr.Radio(list(DETAILS), value=list(DETAILS)[int(coarse)], label="Detail")

    @property
    def _contexts(self) -> list[str]:
        return list(dict.fromkeys(context for own in self.transformer.reads.values() for context in own))

    @property
    def _last_layer(self) -> int:
        return self.transformer.config.num_layers - 1

    def _classes(self, label: str) -> gr.Dropdown:
        names = self.explorer.model.classes or [f"class {n}" for n in range(self.transformer.config.num_classes)]
        named = [(short_name(name), number) for number, name in enumerate(names)]
        return gr.Dropdown([("no class", NO_CLASS), *named], value=NO_CLASS, label=label)

    def _maps(self) -> None:
        with gr.Tab("Maps", id="maps"):
            gr.Markdown(
                "Each feature map as colours, its first three principal components: like colours, like features."
            )
            with gr.Row():
                contexts = gr.CheckboxGroup(self._contexts, value=self._contexts, label="Contexts")
                reads = gr.CheckboxGroup(list(self.transformer.reads), value=[self.own.read], label="Reads")
            with gr.Row():
                layers = gr.CheckboxGroup(list(range(self._last_layer + 1)), value=[self.own.layer], label="Layers")
                detail = self._detail()
            button = gr.Button("Draw maps", variant="primary", elem_id="draw-maps")
            shown = results("maps", columns=4)
            self._on(button.click, self.explorer.maps, [self.image, contexts, reads, layers, detail], [shown])

    def _points(self) -> None:
        explorer = self.explorer
        with gr.Tab("Points", id="points"):
            gr.Markdown("Click a point: bright places are like it, in this image and in its nearest ones.")
            spec = self._spec()
            k = gr.Slider(1, 12, 5, step=1, label="Other images")
            with gr.Row():
                clicked = gr.Image(label="Click here", interactive=False, format="png", buttons=[], elem_id="click")
                with gr.Column(scale=3):
                    shown = results("points", columns=3)

            def points(event: gr.SelectData, path: str | None, number: int | None, *feature: Any) -> list[Captioned]:
                return explorer.points(path, number, (event.index[0], event.index[1]), *feature)

            self._on(clicked.select, points, [self.image, self.number, *spec, k], [shown])
            self._on(self.image.change, self._square, self.image, [clicked])

    def _square(self, path: str | None) -> Image.Image | None:
        return None if path is None else pictures.square(self.explorer.opened(path), self.explorer.side)

    def _neighbours(self) -> None:
        with gr.Tab("Neighbours", id="neighbours"):
            gr.Markdown(f"The images whose features ({html.escape(str(self.own))}) are most like this one's.")
            k = gr.Slider(1, 48, 12, step=1, label="How many")
            button = gr.Button("Find", variant="primary", elem_id="find")
            shown = results("neighbours", columns=4)
            self._on(button.click, self.explorer.neighbours, [self.image, self.number, k], [shown])

    def _edit(self) -> None:
        explorer, half = self.explorer, self.explorer.model.image_size // 2
        with gr.Tab("Edit", id="edit"):
            gr.Markdown("Paint over what is to be drawn anew, or draw beyond the edges.")
            with gr.Row():
                of_class, seed = self._classes("Class"), gr.Number(0, precision=0, minimum=0, label="Seed")
            with gr.Row():
                with gr.Column():
                    editor = gr.ImageEditor(
                        type="numpy",
                        label="Paint here",
                        sources=(),
                        transforms=(),
                        layers=False,
                        format="png",
                        canvas_size=(explorer.side, explorer.side),
                        fixed_canvas=True,
                        brush=gr.Brush(explorer.side // 8, colors=["#ff3355"], color_mode="fixed"),
                        buttons=[],
                        elem_id="editor",
                    )
                    inside = gr.Button("Draw the painted part anew", variant="primary", elem_id="inpaint")
                with gr.Column():
                    sides = [
                        gr.Slider(0, half, half // 2, step=half // 8 or 1, label=f"Pixels to add {place}")
                        for place in ("at the left", "at the top", "at the right", "at the bottom")
                    ]
                    outside = gr.Button("Draw beyond the edges", elem_id="outpaint")
            shown = results("edited", columns=2)
            self._on(inside.click, explorer.inpaint, [self.image, editor, of_class, seed], [shown])
            self._on(outside.click, explorer.outpaint, [self.image, *sides, of_class, seed], [shown])

            def canvas(path: str | None) -> dict[str, Any] | None:
                return None if path is None else {"background": self._square(path), "layers": [], "composite": None}

            self._on(self.image.change, canvas, self.image, [editor])

    def _order(self) -> None:
        orders = [order or ONLY_ORDER for order in known_orders(self.transformer)]
        with gr.Tab("Order", id="order"):
            gr.Markdown("How an image of a class comes about: its tokens appear in the order in which they are drawn.")
            with gr.Row():
                of_class, seed = self._classes("Class"), gr.Number(0, precision=0, minimum=0, label="Seed")
            chosen_orders = gr.CheckboxGroup(orders, value=orders[:4], label="Orders")
            button = gr.Button("Animate", variant="primary", elem_id="animate")
            shown = gr.Image(label="Animation", interactive=False, type="filepath", buttons=[], elem_id="animation")
            self._on(button.click, self.explorer.animate, [of_class, chosen_orders, seed], [shown])

    def _surprisal(self) -> None:
        several = not self.transformer.fixed_order
        with gr.Tab("Surprisal", id="surprisal"):
            gr.Markdown("How little the model expected each token, given the tokens before it: bright is surprising.")
            with gr.Row():
                of_class = self._classes("Class that the model is told")
                first = 4 if several else 1
                orders = gr.Slider(1, 16, first, step=1, label="Mean over random orders", visible=several)
            button = gr.Button("Draw surprisal", variant="primary", elem_id="draw-surprisal")
            shown = results("surprisals", columns=3)
            self._on(button.click, self.explorer.surprisal, [self.image, of_class, orders], [shown])


def results(name: str, columns: int) -> gr.Gallery:
    """Where pictures with captions are shown."""
    return gr.Gallery(
        show_label=False,
        columns=columns,
        format="png",
        buttons=[],
        interactive=False,
        elem_id=f"{name}-shown",
        height="auto",
        object_fit="contain",
    )


def application(page: Page) -> FastAPI:
    """The page as an application that answers this machine alone and serves no file.

    gradio's own `launch` is not used: it wants to reach the page through whatever proxy the environment names.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"])
    page.blocks._queue.sleep_when_free = IDLE_SECONDS
    return gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        server_name=ADDRESS,
        allowed_paths=[],
        max_file_size="64mb",
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        run_history=False,
        footer_links=[],
        css=STYLE,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )


def serve(page: Page, port: int | None = None, started: Callable[[str], None] = print) -> None:
    """Serve the page until the process is interrupted.

    Args:
        port: None: any that is free.
        started: is called with the address once the port is taken.

    Raises:
        OSError: the port is taken.
    """
    app = application(page)
    with socket.create_server((ADDRESS, port or 0)) as listening:
        started(f"http://{ADDRESS}:{listening.getsockname()[1]}")
        Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


class Server(uvicorn.Server):
    """A server that ends while a page is open: uvicorn alone waits for the stream that gradio holds to each page."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the server."""
        app: Any = self.config.app
        for mounted in app.routes:
            mounted.app.stop_event.set()
        await super().shutdown(sockets)
