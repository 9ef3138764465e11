"""Who is asked about a model's answers, and what did they say? Translators and judges, each of them a responder."""
