"""Which equations does a traced program have, nested ones too?"""

import jax.extend as jex


def equations(jaxpr):
    """All whose results are used."""
    used = {id(v) for v in jaxpr.outvars}.union(id(v) for equation in jaxpr.eqns for v in equation.invars)
    for equation in jaxpr.eqns:
        if any(id(v) in used for v in equation.outvars):
            yield equation
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
