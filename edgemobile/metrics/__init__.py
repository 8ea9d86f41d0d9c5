"""How near one output is to another, and how near is near enough.

measures    METRICS: name, unit, direction and function
tolerances  what a healthy file keeps of its reference, one table, and the judgement by it
"""
