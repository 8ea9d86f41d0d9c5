"""Code that host and board share.

sessions  opens a model file in a runtime, states its inputs and outputs, and runs it
table     the runtimes, one row each
job       the messages between host and board, and their limits
latency   times inferences
"""
