"""The number format of encoding; `randar_features.precision` decides it, for training too."""

from randar_features.precision import autocast, check_dtype, default_dtype

__all__ = ["autocast", "check_dtype", "default_dtype"]
