"""The decoder, its layers, and the families that are read into it."""
