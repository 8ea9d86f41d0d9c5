"""What host and board both use.

sessions  opens a model file in a runtime, states its inputs and outputs, and runs it
table     the runtimes, a row each
latency   times inferences
"""
