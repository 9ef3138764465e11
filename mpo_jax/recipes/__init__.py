"""How does a model make its own training data? Published recipes, in stages whose results are files."""
