"""`randar train tokenizer` for a checkout: `python scripts/train_tokenizer.py --help`."""

from randar_features.cli.train_tokenizer import main

if __name__ == "__main__":
    raise SystemExit(main())
