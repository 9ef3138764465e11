"""Who says what a text means in English? One translator a file, one line each in the registry."""
