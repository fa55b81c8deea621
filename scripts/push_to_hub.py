"""`randar push` for a checkout: `python scripts/push_to_hub.py --help`."""

from randar_features.cli.push import main

if __name__ == "__main__":
    raise SystemExit(main())
