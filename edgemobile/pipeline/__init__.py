"""The main job: a model in, checked files and their manifest out.

export    lower, calibrate, quantize, write, check
request   what to export, and what came of it
check     the written files, run and judged against PyTorch
beside    what lies beside the files: labels, a program that runs them on a board, what to do next
predict_program  that program, before edgemobile's own modules are copied into it
backends  how a graph becomes a file of each format
manifest  what an export says of itself
folder    such a folder as its user finds it: its files, and whether they are what was written
artifact  the folder an export leaves: written whole or not at all
"""
