"""From a config to a trained model: what a run is, its steps, and what comes out of it."""
