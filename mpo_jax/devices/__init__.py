"""Which devices and processes is a run on, and what happens to them?"""
