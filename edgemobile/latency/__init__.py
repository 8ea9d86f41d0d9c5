"""How fast a file is on a device. `run.bench(BenchRequest(files, device))` gives a Run.

run         from request to Run, with what to know before believing it
compare     two runs against each other
statistics  what raw values say, how sure that is, and whether to trust it
"""
