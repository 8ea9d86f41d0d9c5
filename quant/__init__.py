"""Graph + images + recipe -> int8 Graph: `quantize(calibrate(graph, batches), recipe)`.

ptq                                       the whole quantization, step by step
calibration, calibration_file             statistics of a graph on images, shared by recipes; stored in a file
recipe, recipes, trials, targets          recipes as data; shipped ones; changes to try; defaults per target hardware
guards, synthesize                        checks of calibration images; synthetic images if there are no real ones
hswish, hardswish_gates                   hard-swish in integer ops; gates that allow a factor per channel
equalize, noise, noise_optimal_scaling    equal channel ranges; noise in the logits; the factors with the least noise
observers, qparams                        the range of a tensor; its scale and zero point
layerwise                                 float and int8 layer by layer, each corrected before the next one runs
refit, clip, adaround, bias_correction    the layer corrections, one per file
sensitivity, explain                      the noise of each tensor; what to keep in float; the causes, in sentences
weights_only                              smaller weights, float arithmetic
torch_graph                               runs a Graph in PyTorch: fast, and with gradients
torch_integers                            an int8 Graph in PyTorch that can be trained

To add a method, write a pure function in its own file and add a field to the recipe.
"""
