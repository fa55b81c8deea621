"""Images in: files, arrays, tensors and data sets as square pixel batches, and the built-in photo-digits."""

from .decoding import load_image
from .images import ImageBatch, ImageSource
from .masks import load_mask
from .opening import ImageError
from .pairs import ImageMask, ImageMasks, open_pairs
from .photo_digits import PhotoDigit, PhotoDigits, corresponding_points
from .sheets import labelled_sheet
from .sources import open_images
from .transforms import adm_center_crop, contact_sheet, tensor_center_crop, to_image, to_tensor

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
