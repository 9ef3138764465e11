"""What is a run, what is a step, and what is the result?"""
