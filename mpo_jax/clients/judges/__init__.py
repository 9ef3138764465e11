"""Who says whether an answer is safe? One judge a file, one line each in the registry."""
