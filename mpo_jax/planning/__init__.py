"""Will a run fit a TPU slice, and what does it take, on a machine without one?"""
