"""Makes a reference model smaller for a budget on a device: NetAdapt on measured costs.

request        what to adapt, and the result
run            all of it, from a model to a folder with a checkpoint
data, folder   the net and the images; what is written
search         the steps; moves: what can be left out; saliency: what matters; repair: without training
multiplier     the family's width multiplier at the same cost, for comparison
cost_table     measures nets on a device; cost_model: predicts others; features: what kernels do
limits         the budget
pruning        smaller nets from the weights of a larger one
"""

from __future__ import annotations
