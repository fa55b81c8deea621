"""`randar index` for a checkout: `python scripts/build_index.py --help`."""

from randar_features.cli.index import main

if __name__ == "__main__":
    raise SystemExit(main())
