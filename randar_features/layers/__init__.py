"""Building blocks shared by the models."""

from randar_features.layers.attention import Attention
from randar_features.layers.block import Block
from randar_features.layers.embedding import ClassEmbedding
from randar_features.layers.feed_forward import FeedForward
from randar_features.layers.kv_cache import KVCache
from randar_features.layers.norm import RMSNorm
from randar_features.layers.packed_linear import PackedLinear, pack_weights

__all__ = ["Attention", "Block", "ClassEmbedding", "FeedForward", "KVCache", "PackedLinear", "RMSNorm", "pack_weights"]
