"""Neural architecture search on a device: nets cut from a trained one, measured and trained for a short time.

request   what to search, and the result
space     what may differ between nets, and a net for a choice of it
trial     one net: trained, measured, and on images
study     the trials on disk, in Optuna's storage
run       the whole search, from a model to a folder with a Pareto front
plot      draws it
"""

from __future__ import annotations
