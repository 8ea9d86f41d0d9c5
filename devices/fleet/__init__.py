"""Runs a model on several boards at once, each with a part of the images, using dask.distributed.

spread     distributes the images; the only module for other packages
board      the tasks, which run in one Dask worker per board
cluster    starts the workers, or connects to those of a running scheduler
agreement  finds boards whose outputs differ from those of the others
parts      the parts that are not answered yet
journal    stores answers on disk, to resume an interrupted call
"""
