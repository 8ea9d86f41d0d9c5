"""A .onnx or .tflite file before anything runs it.

model_file  ModelFile: its bytes, read once, and what they say
file        bytes and their format; boards have this too
contents    its ops and values, in one form for every format
precision   the one rule for the precision of a file
metadata    the entries edgemobile writes into it, and reads from anyone's
"""
