"""Files of weights on this machine or on the Hugging Face Hub, and their download."""

import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face Hub.

    `key` is where a pickle keeps its state dict; `revision` is a branch, a tag or a commit. "main" is whatever
    it is at the first download: the published commits are not known here.
    """

    repository: str
    filename: str
    key: str | None = None
    revision: str = "main"

    def __str__(self) -> str:
        """Repository and file name."""
        return f"{self.repository}/{self.filename}"

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision}/{self.filename}"


@dataclass(frozen=True)
class WeightsFile:
    """A file on this machine; `revision` is the commit that the Hub's cache has it from, else None."""

    path: Path
    key: str | None = None
    revision: str | None = None


class HubUnreachableError(FileNotFoundError):
    """A file is not in the local cache, and the Hub is out of reach."""


def download(file: HubFile) -> WeightsFile:
    """The file in the Hub's local cache, downloaded into it if it is not there.

    What is cached is used as it is, without a look at the Hub. HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE say where the
    cache is and whether the network may be used, as everywhere.

    Raises:
        HubUnreachableError: the file is not cached, and there is no connection: said at once, without retries.
        FileNotFoundError: the Hub has no such file or revision.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    get = partial(hf_hub_download, file.repository, file.filename, revision=file.revision)
    try:
        return _cached(file, get(local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    if why_out_of_reach():
        raise _unreachable(file)
    try:
        return _cached(file, get())
    except LocalEntryNotFoundError as error:
        raise _unreachable(file) from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(
            f"the Hugging Face Hub does not give {file} at revision {file.revision}: {reason}. "
            "A revision is a branch, a tag or a full commit hash"
        ) from error


def why_out_of_reach(address: str | None = None) -> str | None:
    """Why an address, None: the Hub, cannot be reached; None where it answers, or where a proxy has to find out."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if getproxies():
        return None
    parts = urlsplit(address or constants.ENDPOINT)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return f"{parts.hostname} cannot be reached: {error}"
    return None


def _unreachable(file: HubFile) -> HubUnreachableError:
    return HubUnreachableError(
        f"{file} (revision {file.revision}) is not in the local cache, and the Hugging Face Hub cannot "
        "be reached, or HF_HUB_OFFLINE is set. Load it once with a connection, or set HF_HOME to a cache "
        "that has it, or pass a local folder with the model's files in it"
    )


def _cached(file: HubFile, path: str) -> WeightsFile:
    """`path` with its commit, which is the name of its folder in the Hub's cache."""
    folder = Path(path).parent
    commit = folder.name if folder.parent.name == "snapshots" else file.revision
    return WeightsFile(Path(path), file.key, commit)
