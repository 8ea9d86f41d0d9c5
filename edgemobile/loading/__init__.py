"""Where a model's weights come from: the package, torchvision's public files, a seed, or a file from anybody.

checkpoint   load_weights: all of it, as a Checkpoint that fits a net
files        .safetensors and pickles as data, never code
wrappers     keys as the bare model has them, whatever held it
key_layouts  other libraries' keys, by table
tflite       a TFLite file's weights as reals
facts        labels and preprocessing, from whoever wrote them down
public       torchvision's files, and how one comes here
"""

from edgemobile.loading.checkpoint import NAMED, Checkpoint, build, bundled, identify, load_into, load_weights

__all__ = ["NAMED", "Checkpoint", "build", "bundled", "identify", "load_into", "load_weights"]
