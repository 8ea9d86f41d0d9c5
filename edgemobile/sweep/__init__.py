"""A grid of models, widths, resolutions, recipes and devices, measured point by point with the gate's cache.

config   [sweep] of edgemobile.toml, and its points as the gate's models
run      exports, evaluates and measures every point; what is cached is not repeated
table    one row per file, the Pareto fronts, and the JSON
findings the rows as findings of a report: its page, markdown and CSV
"""
