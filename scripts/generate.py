"""`randar generate` for a checkout: `python scripts/generate.py --help`."""

from randar_features.cli.generate import main

if __name__ == "__main__":
    raise SystemExit(main())
