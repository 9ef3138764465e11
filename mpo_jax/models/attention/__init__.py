"""Who sees whom: one contract, and the code of each platform."""
