"""What host and board both use.

sessions  opens a model file in a runtime, states its inputs and outputs, and runs it
table     the runtimes, a row each
job       what travels between host and board, and its limits
latency   times inferences
"""
