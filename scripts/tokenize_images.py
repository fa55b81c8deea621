"""`randar tokenize` for a checkout: `python scripts/tokenize_images.py --help`."""

from randar_features.cli.tokenize import main

if __name__ == "__main__":
    raise SystemExit(main())
