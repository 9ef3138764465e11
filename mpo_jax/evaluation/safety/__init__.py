"""How often does a model do what it should refuse? From answers to verdicts to rates with intervals."""
