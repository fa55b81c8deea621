"""`randar extract` for a checkout: `python scripts/extract_features.py --help`."""

from randar_features.cli.extract import main

if __name__ == "__main__":
    raise SystemExit(main())
