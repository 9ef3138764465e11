"""Will a run fit a TPU slice, on a machine without one?"""
