"""Where do prompts come from? One reader for each published set."""
