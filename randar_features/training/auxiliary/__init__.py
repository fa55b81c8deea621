"""Losses beside next-token prediction, each in its own module and off by default; `losses.py` joins them."""
