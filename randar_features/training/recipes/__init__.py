"""The recipes that are shipped: YAML files of training options."""

from pathlib import Path

RECIPES = Path(__file__).parent


def recipe_file(name: str) -> Path:
    """A file of options, or else the shipped recipe of that name, such as "randar_l.yaml"."""
    shipped = RECIPES / name
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)
