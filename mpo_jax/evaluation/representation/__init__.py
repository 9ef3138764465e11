"""Do a model's states tell safe answers from unsafe ones, in every language alike?"""
