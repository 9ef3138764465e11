"""How does a file of rows become batches?"""
