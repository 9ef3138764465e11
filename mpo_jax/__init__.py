"""Multilingual reward-gap MPO in JAX: make a language model equally safe in every language.

W. Zhao et al., "MPO: Multilingual Safety Alignment via Reward Gap Optimization", ACL 2025, arXiv:2505.16869.
"""

__version__ = "0.1.0"
