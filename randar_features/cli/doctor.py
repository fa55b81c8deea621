"""`randar doctor`: what this machine has."""

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch

from probes.index import in_words
from randar_features.hub.files import HubFile
from randar_features.hub.registry import list_models
from randar_features.options.command import run
from randar_features.precision import fastest_dtype, name_of

PACKAGES = ("randar-features", "torch", "timm", "numpy", "scikit-learn", "faiss-cpu", "datasets", "accelerate")
EXTRAS = {
    "matplotlib": "charts of reports (pip install 'randar-features[benchmarks]')",
    "gradio": "randar explore (pip install 'randar-features[explore]')",
    "ray": "extraction over a cluster (pip install 'randar-features[ray]')",
    "tensorboard": "curves of trainings (pip install 'randar-features[training]')",
    "pandas": "to_pandas() of tables and hits (pip install pandas)",
    "zarr": "tables as Zarr (pip install 'randar-features[zarr]')",
    "pillow_heif": "HEIC pictures (pip install pillow-heif)",
    "torch_fidelity": "FID's Inception network (pip install 'randar-features[fid]')",
    "lpips": "perceptual distance (pip install lpips)",
    "wandb": "trainings in Weights & Biases (pip install wandb)",
}
CACHE_FOLDERS = ("runs/features", "runs")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Show what this machine has: versions, devices, number formats, memory, caches, weights, extras."""


def doctor(options: DoctorOptions) -> None:
    """Print it all. No network is used."""
    sections = {
        "versions": versions(),
        "devices": devices(),
        "memory": memory(),
        "caches": caches(),
        "published weights": weights(),
        "extras": extras(),
    }
    for title, lines in sections.items():
        print(title)
        for line in lines:
            print(f"  {line}")


def versions() -> Iterator[str]:
    """Python, the system, and the packages that matter."""
    yield f"Python {platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name}: not installed"
    yield f"package at {Path(__file__).parents[1]}"


def devices() -> Iterator[str]:
    """Each device, and the number format that is fastest there."""
    found = [torch.device("cpu"), *(torch.device("cuda", number) for number in range(torch.cuda.device_count()))]
    for device in found:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
        fastest = name_of(fastest_dtype(device))
        yield f"{device}: {name}; fastest number format: {fastest} (--dtype auto); default: float32"
    yield f"threads of PyTorch: {torch.get_num_threads()}"


def memory() -> Iterator[str]:
    """Memory of the machine, and of each GPU."""
    machine = psutil.virtual_memory()
    yield f"{in_words(machine.available)} of {in_words(machine.total)} available"
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        yield f"cuda:{number}: {in_words(free)} of {in_words(total)} free"
    yield f"disk here: {in_words(psutil.disk_usage('.').free)} free"


def caches() -> Iterator[str]:
    """Where downloads and features are kept, how large they are, and how to clean them."""
    from huggingface_hub.constants import HF_HUB_CACHE

    yield f"Hugging Face Hub: {HF_HUB_CACHE}, {size_of(Path(HF_HUB_CACHE))}; clean: hf cache rm, or remove it"
    for name in CACHE_FOLDERS:
        yield f"{name} (in the working directory): {size_of(Path(name))}; clean: rm -r {name}"


def weights() -> Iterator[str]:
    """Which models can be loaded without a network."""
    from huggingface_hub import try_to_load_from_cache

    from randar_features.hub.published import PUBLISHED

    for info in list_models():
        source = PUBLISHED.get(info.name)
        files = [file for file in source.files.values() if isinstance(file, HubFile)] if source else []
        missing = [
            file for file in files if not isinstance(try_to_load_from_cache(file.repository, file.filename), str)
        ]
        yield f"{info.name}: {'here' if not missing else 'not here, needs ' + ' and '.join(map(str, missing))}"


def extras() -> Iterator[str]:
    """Optional packages, and what they are for."""
    for name, purpose in EXTRAS.items():
        found = importlib.util.find_spec(name) is not None
        yield f"{name}: {'installed' if found else 'missing'}, for {purpose}"


def size_of(folder: Path) -> str:
    """The size of all files below a folder, in words; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return in_words(total)


main = partial(run, doctor, DoctorOptions, program="randar doctor")
