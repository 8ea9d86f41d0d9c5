"""Graph + images + recipe -> int8 Graph: `ptq(graph, batches, recipe)`.

ptq                                       all of it, in order
recipe, recipes, targets                  how, as data; the shipped ones by name; what suits where it will run
guards, synthesize                        what is wrong with calibration images; images where there are none
hswish, gates                             hard-swish in integer ops; one that lets every channel have its own scale
equalize, noise, least_noise              channels made alike; what rounding would do to the logits; factors by that
observers, qparams                        the range of a tensor; its scale and zero point
side_by_side                              float and int8 layer by layer, each mended before the next one sees it
refit, clip, adaround, bias_correction    the mends, one a file
sensitivity                               what each tensor costs; which to keep in float
weights_only                              smaller weights, float arithmetic
torch_graph                               a Graph run in PyTorch: fast, and it differentiates

Add a method: a pure function in a file of its own, and its name in the recipe.
"""
