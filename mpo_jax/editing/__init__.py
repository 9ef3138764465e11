"""How is a model changed without training?"""
