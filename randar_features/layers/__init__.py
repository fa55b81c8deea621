"""Building blocks shared by the models."""

from randar_features.layers.attention import Attention, Mask, Memory, Rows, SelfAttention, attend, merged_heads
from randar_features.layers.block import Block, PreNormBlock
from randar_features.layers.embedding import ClassEmbedding, check_classes
from randar_features.layers.feed_forward import FeedForward
from randar_features.layers.kv_cache import KVCache
from randar_features.layers.norm import RMSNorm
from randar_features.layers.packed_linear import PackedLinear, pack_weights

__all__ = [
    "Attention",
    "Block",
    "ClassEmbedding",
    "FeedForward",
    "KVCache",
    "Mask",
    "Memory",
    "PackedLinear",
    "PreNormBlock",
    "RMSNorm",
    "Rows",
    "SelfAttention",
    "attend",
    "check_classes",
    "merged_heads",
    "pack_weights",
]
