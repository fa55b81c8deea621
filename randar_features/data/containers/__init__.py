"""Where images come from: folders, archives, tables, lists and loaders, with the labels and splits found there."""
