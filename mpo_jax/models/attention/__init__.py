"""Attention: one contract, and the code for each platform."""
