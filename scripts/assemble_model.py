"""`randar export` for a checkout: `python scripts/assemble_model.py --help`."""

from randar_features.cli.export import main

if __name__ == "__main__":
    raise SystemExit(main())
