"""Studies that run on a CPU in minutes, with the library's own models, objective, step and packing."""
