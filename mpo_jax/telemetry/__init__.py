"""How is a run watched? Metrics, rates, FLOPs, memory, plots."""
