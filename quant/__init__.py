"""Graph + images + recipe -> int8 Graph: `quantize(calibrate(graph, batches), recipe)`.

ptq                                       all of it, in order
calibration, calibration_file             what images show of a graph, for any number of recipes; as a file
recipe, recipes, targets                  how, as data; the shipped ones by name; what suits where it will run
guards, synthesize                        what is wrong with calibration images; images where there are none
hswish, hardswish_gates                   hard-swish in integer ops; gates that let every channel have its own scale
equalize, noise, noise_optimal_scaling    channels made alike; what rounding does to the logits; factors by that
observers, qparams                        the range of a tensor; its scale and zero point
layerwise                                 float and int8 layer by layer, each corrected before the next one sees it
refit, clip, adaround, bias_correction    the corrections, one a file
sensitivity, explain                      what each tensor costs; which to keep in float; why, in sentences
weights_only                              smaller weights, float arithmetic
torch_graph                               a Graph run in PyTorch: fast, and it differentiates

Add a method: a pure function in a file of its own, and its name in the recipe.
"""
