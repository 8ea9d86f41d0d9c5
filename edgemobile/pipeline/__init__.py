"""The export: a model in, checked files and their manifest out.

export    lower, calibrate, quantize, write, check
request   what to export, and the result
check     runs the written files and compares them with PyTorch
beside    the other files of the folder: labels, a program that runs the models on a board, a README
predict_program  that program, before edgemobile's own modules are copied into it
backends  how a graph becomes a file of each format
manifest  manifest.json and the metadata in each file
folder    reads the folder of an export, and checks that its files are unchanged
artifact  writes the folder of an export atomically
"""
