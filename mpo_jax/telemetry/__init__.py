"""How is a run watched? Numbers, rates, arithmetic, memory, pictures."""
