"""Images in: files, arrays, tensors and data sets as square pixel batches, and the built-in photo-digits."""

from .decode.decoding import load_image
from .decode.masks import load_mask
from .decode.opening import ImageError
from .decode.transforms import adm_center_crop, contact_sheet, tensor_center_crop, to_image, to_tensor
from .images import ImageBatch, ImageSource
from .pairs import ImageMask, ImageMasks, open_pairs
from .photo_digits import PhotoDigit, PhotoDigits, corresponding_points
from .sheets import labelled_sheet
from .sources import open_images

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
