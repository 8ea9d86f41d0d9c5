"""From what a user names to a net with weights, labels and preprocessing.

model              load_model: all of it, as a Model
model_spec         how a model of one's own is named: package.module:factory, FILE.pt2
own_model          such a model, imported or read
saved_program      a .pt2: a new archive of checked members, which is all that torch loads
program_text       what every text of it may say
size_expression    its sizes, without evaluating anything
presets            --preprocess by name, by JSON, or by what a file's input looks like
checkpoint         load_weights: a Checkpoint that fits a net
files              .safetensors and pickles as data, never code
wrappers           keys as the bare model has them, whatever held it
key_layouts        other libraries' keys, by table
tflite_checkpoint  the weights of a TFLite file, in float
checkpoint_facts   labels and preprocessing, from whoever wrote them down
public             torchvision's files, and how to fetch one
"""
