"""The option system: typed dataclasses that the command line, YAML files and Python fill alike."""
