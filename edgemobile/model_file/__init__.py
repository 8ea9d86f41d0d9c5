"""A .onnx or .tflite file, read without running it.

model_file  ModelFile: its bytes, read once, and what they contain
file        bytes and their format; also used on boards
contents    its ops and values, in one form for every format
precision   the one rule for the precision of a file
metadata    the entries that edgemobile writes, and reads from any file
"""
