"""What is kept on disk: Hugging Face's checkpoints, the state of a run, the model card."""
