"""Images in: files, arrays, tensors and data sets as square pixel batches, and the built-in photo-digits."""

from randar_features.data.decode.decoding import load_image
from randar_features.data.decode.masks import load_mask
from randar_features.data.decode.opening import ImageError
from randar_features.data.decode.transforms import (
    adm_center_crop,
    contact_sheet,
    tensor_center_crop,
    to_image,
    to_tensor,
)
from randar_features.data.images import ImageBatch, ImageSource
from randar_features.data.pairs import ImageMask, ImageMasks, open_pairs
from randar_features.data.photo_digits import PhotoDigit, PhotoDigits, corresponding_points
from randar_features.data.sheets import labelled_sheet
from randar_features.data.sources import open_images

__all__ = [
    "ImageBatch",
    "ImageError",
    "ImageMask",
    "ImageMasks",
    "ImageSource",
    "PhotoDigit",
    "PhotoDigits",
    "adm_center_crop",
    "contact_sheet",
    "corresponding_points",
    "labelled_sheet",
    "load_image",
    "load_mask",
    "open_images",
    "open_pairs",
    "tensor_center_crop",
    "to_image",
    "to_tensor",
]
