"""Where do files lie, and what is in them?"""
