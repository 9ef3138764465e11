"""Which method works, in a small world? Studies that run on a CPU in minutes, with the library's own objective and step."""
