"""One decoder in Flax NNX, driven by a Hugging Face config, with a score head on top.

    config -> rope -> decoder -> head        loading: tensor references -> (sharded) device arrays

Letters in array names: B batch, T time, D model, N query heads, K key/value heads, H head size, F feed-forward,
E experts, L layers, S keys, R ropes.
"""
