"""How certain is a proportion?

E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
"""

CONFIDENCE = 0.95


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The ends of the 95 % interval of `hits` of at least one, which lie between 0 and 1 around the proportion."""
    from scipy.stats import binomtest  # takes a second to import

    low, high = binomtest(hits, count).proportion_ci(CONFIDENCE, method="wilson")
    rate = hits / count
    return min(float(low), rate), max(float(high), rate)  # rounding may put an end on its wrong side
