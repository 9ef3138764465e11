"""How does a model score given answers, and how do scores become a loss?"""
