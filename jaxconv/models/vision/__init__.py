"""Pictures in JAX: the vision tower of Qwen3-VL, and what its decoder gets of a picture.

Formulas: transformers 5.23, models/qwen3_vl/modeling_qwen3_vl.py and vision_utils.py.
"""
