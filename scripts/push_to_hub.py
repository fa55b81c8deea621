"""Upload a model to the Hugging Face Hub: `python scripts/push_to_hub.py RUN/model owner/name`.

The folder is one that `randar_features.load_model` loads; README.md is written if there is none, and can be
edited before the upload with --card-only. Log in with `hf auth login`, or set HF_TOKEN.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from randar_features.command_line import run_command
from randar_features.hub.publish import push_to_hub, write_card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="RUN/model, a checkpoint, or what assemble_model.py wrote")
    parser.add_argument("repository", help="owner/name; made if it is not there")
    parser.add_argument("--private", action="store_true", default=None, help="if it is made now")
    parser.add_argument("--message", default="Upload model", help="of the commit")
    parser.add_argument("--card-only", action="store_true", help="write README.md and upload nothing")
    args = parser.parse_args()

    if args.card_only:
        print(write_card(args.folder, args.repository))
    else:
        print(push_to_hub(args.folder, args.repository, private=args.private, message=args.message))


if __name__ == "__main__":
    run_command(main)
