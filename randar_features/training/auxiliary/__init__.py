"""Losses in addition to next-token prediction, off by default; `losses.py` joins them."""
