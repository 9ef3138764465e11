"""How useful is a model? Benchmarks of lm-evaluation-harness and MT-Bench, by language, with intervals."""
