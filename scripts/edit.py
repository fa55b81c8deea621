"""`randar edit` for a checkout: `python scripts/edit.py --help`."""

from randar_features.cli.edit import main

if __name__ == "__main__":
    raise SystemExit(main())
