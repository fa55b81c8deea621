"""`randar explore`: a page on this machine to look at images through a model."""

import os
import tempfile
import webbrowser
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from randar_features.data.decode.ranges import Reading
from randar_features.options.command import run
from randar_features.options.parse import positional
from randar_features.options.shared import DeviceOptions, DType, fields_of
from randar_features.options.types import Count


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(DeviceOptions, Reading):
    """Open a page to look at images through a model: feature maps, points, neighbours, edits, orders, surprisal.

    Only this machine can open the page (127.0.0.1). Images dropped on it are kept until the command ends (Ctrl-C).

    Attributes:
        folder: images, or a folder that `randar index` or `randar extract` wrote.
        model: for images, the model; none: randar-tiny. For an index or a table, name or folder of its model, if it
            has moved.
        spec: of images or a table, the feature that they are compared by, such as reverse/image/2; none: as the model
            recommends, or the table's first.
        data: the images of an index or a table, if they have no files of their own (Parquet).
        split: split of the images.
        most: largest number of images to take from a folder, evenly spread; for more, index them first.
        batch_size: images in one forward pass.
        dtype: number format of the products, for images and maps; auto: the fastest of this machine.
        port: port of the page; none: any free port.
        browser: open a browser.
        progress: show a bar.
    """

    folder: str = positional()
    model: str | None = None
    spec: str | None = None
    data: str | None = None
    split: str | None = None
    most: Count = 500
    batch_size: Count = 32
    dtype: DType = "float32"
    port: Count | None = None
    browser: bool = True
    progress: bool = True


def explore(options: ExploreOptions) -> None:
    """Serve the page until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="randar-explore-") as scratch:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": scratch}
        from randar_features.cli.explore.collection import open_collection
        from randar_features.cli.explore.page import Explorer, Page, serve

        others = fields_of(options, but=("folder", "port", "browser", "value_range", "max_pixels"))
        collection = open_collection(options.folder, Path(scratch), reading=options.reading, **others)
        page = Page(Explorer(collection, Path(scratch), options.dtype))

        def started(address: str) -> None:
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            if options.browser:
                webbrowser.open(address)

        serve(page, options.port, started)


main = partial(run, explore, ExploreOptions, program="randar explore")
