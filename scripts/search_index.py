"""`randar search` for a checkout: `python scripts/search_index.py --help`."""

from randar_features.cli.search import main

if __name__ == "__main__":
    raise SystemExit(main())
