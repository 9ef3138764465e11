"""Where are files, and what is in them?"""
