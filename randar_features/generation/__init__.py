"""Generation: parallel decoding, editing, twice the resolution, likelihoods."""

from randar_features.generation.editing import inpaint, outpaint
from randar_features.generation.generate import generate
from randar_features.generation.likelihood import log_likelihood, surprisal_map
from randar_features.generation.recording import compile_steps, new_cache
from randar_features.generation.upscale import upscale_tokens
from randar_features.layers.packed_linear import pack_weights

__all__ = [
    "compile_steps",
    "generate",
    "inpaint",
    "log_likelihood",
    "new_cache",
    "outpaint",
    "pack_weights",
    "surprisal_map",
    "upscale_tokens",
]
