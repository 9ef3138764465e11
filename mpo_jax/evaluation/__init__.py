"""How good is a model? Held-out rows and reward gaps per language."""
