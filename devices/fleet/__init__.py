"""Images answered by several boards at once, on dask.distributed: one worker per board.

`spread` is what others use. `board` are the tasks, which run in the workers; `cluster` starts the workers or joins
those of a running scheduler; `agreement` finds the boards that can be trusted; `parts` knows what is left to do, and
`journal` keeps answers on disk.
"""
