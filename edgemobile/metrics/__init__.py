"""Metrics that compare outputs, and their tolerances.

measures    METRICS: name, unit, direction and function
tolerances  one table of the bounds that a correct file meets, and the check against it
"""
