"""From files of text rows to fixed-shape host batches."""
