"""Loads a model with its weights, labels and preprocessing from what the user gives.

model              load_model: all of it, as a Model
file_model         load_file: a .onnx or .tflite file as a Model
model_spec         how to name a custom model: package.module:factory, FILE.pt2
own_model          imports or reads a custom model
saved_program      a .pt2 file: torch loads only a new archive of checked members
program_text       which texts a .pt2 may contain
size_expression    sizes in a .pt2, without evaluating anything
presets            --preprocess by name, from JSON, or guessed from a file's input
checkpoint         load_weights: a Checkpoint that fits a net
files              .safetensors and pickles as data, never code
wrappers           removes the prefixes of wrappers from keys
key_layouts        tables of other libraries' keys
tflite_checkpoint  the weights of a TFLite file, in float
checkpoint_facts   labels and preprocessing of a checkpoint, from the files that contain them
public             torchvision's files, and their download
"""
