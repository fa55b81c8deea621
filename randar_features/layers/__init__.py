"""Building blocks shared by the models."""

from randar_features.layers.attention import (
    Attention,
    Mask,
    Memory,
    Positions,
    SelfAttention,
    attend,
    continued_mask,
    merged_heads,
)
from randar_features.layers.block import Block, FeedForward, PreNormBlock, RMSNorm, run
from randar_features.layers.config import TransformerConfig
from randar_features.layers.embedding import ClassEmbedding, check_classes
from randar_features.layers.kv_cache import CacheShape, KVCache
from randar_features.layers.packed_linear import PackedLinear, check_packed, pack_weights, packed_format, product_dtype

__all__ = [
    "Attention",
    "Block",
    "CacheShape",
    "ClassEmbedding",
    "FeedForward",
    "KVCache",
    "Mask",
    "Memory",
    "PackedLinear",
    "Positions",
    "PreNormBlock",
    "RMSNorm",
    "SelfAttention",
    "TransformerConfig",
    "attend",
    "check_classes",
    "check_packed",
    "continued_mask",
    "merged_heads",
    "pack_weights",
    "packed_format",
    "product_dtype",
    "run",
]
