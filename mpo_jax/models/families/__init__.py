"""In what do the model families differ? One file for each."""
