"""`randar animate` for a checkout: `python scripts/animate_orders.py --help`."""

from randar_features.cli.animate import main

if __name__ == "__main__":
    raise SystemExit(main())
