"""The code that runs on a board: it needs only Python 3.9, numpy and one runtime.

worker     runs a job: job.json -> run.json
measuring  times or counts inferences
profiling  time per op, and how the delegate splits a file
probe      what the board is and its operating conditions
unpack     unpacks the wheels that setup sends
"""
