"""In what do the families differ? One file each."""
