"""What does a model compute, and in what do the families differ?"""
