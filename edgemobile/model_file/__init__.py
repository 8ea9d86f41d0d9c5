"""A .onnx or .tflite file before anything runs it.

file      its bytes and its format
metadata  the entries edgemobile writes into it, and reads from anyone's
"""
