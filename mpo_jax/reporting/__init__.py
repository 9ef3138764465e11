"""What does a run look like, on one page? What its folder holds, as tables and drawings that need no network."""
