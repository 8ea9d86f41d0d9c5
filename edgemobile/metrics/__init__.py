"""Metrics that compare outputs, and their tolerances.

outputs     the outputs of a net, by name and as rows
measures    METRICS: name, unit, direction and function
tolerances  one table of the bounds that a correct file meets, and the check against it
"""
