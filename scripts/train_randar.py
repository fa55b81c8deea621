"""`randar train transformer` for a checkout: `python scripts/train_randar.py --help`."""

from randar_features.cli.train_transformer import main

if __name__ == "__main__":
    raise SystemExit(main())
