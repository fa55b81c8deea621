"""`randar push`: a model to the Hugging Face Hub."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from randar_features.hub.publish import push_to_hub, write_card
from randar_features.options.command import run
from randar_features.options.parse import positional


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Upload a model to the Hugging Face Hub; load_model("owner/name") then loads it.

    README.md is written if there is none; --card-only lets you edit it before the upload. Log in with
    `hf auth login`, or set HF_TOKEN.

    Attributes:
        folder: a model folder, as training and `randar export` write it.
        repository: owner/name; created if it does not exist.
        private: make a new repository private; none: the owner's default. An existing repository stays as it is.
        message: message of the commit.
        card_only: write README.md and upload nothing.
    """

    folder: Path = positional()
    repository: str = positional()
    private: bool | None = None
    message: str = "Upload model"
    card_only: bool = False


def push(options: PushOptions) -> None:
    """Upload, and print the address."""
    if options.card_only:
        print(write_card(options.folder, options.repository))
    else:
        print(push_to_hub(options.folder, options.repository, private=options.private, message=options.message))


main = partial(run, push, PushOptions, program="randar push")
