"""The command `randar`: one file a command, all options by `parse`. This file imports nothing, so that anybody may."""
