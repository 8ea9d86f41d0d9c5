"""What the commands print, and the records of the Python API.

export      the table of an export
evaluation  accuracy, and what was found of each file
parity      what was missed, why, and around which layer
runs        latency or instructions, and two runs compared
terminal    tables, notes, progress and errors on a terminal
"""
