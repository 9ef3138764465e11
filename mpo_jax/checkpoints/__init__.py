"""What is kept on disk? Hugging Face checkpoints, the state of a run, the model card."""
