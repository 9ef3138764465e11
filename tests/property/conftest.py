"""How many examples does a property get? A few hundred in `make test`, two thousand in `make test-slow`, the same every time.

A red run says which input it was: keep that as an `@example` beside the fix.
"""

import os

from hypothesis import settings

common = {"deadline": None, "derandomize": True, "print_blob": False}
settings.register_profile("quick", max_examples=300, **common)
settings.register_profile("thorough", max_examples=2_000, **common)
settings.load_profile(os.environ.get("EXAMPLES", "quick"))
