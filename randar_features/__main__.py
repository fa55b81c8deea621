"""`python -m randar_features` is the command `randar`."""

from randar_features.cli.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
