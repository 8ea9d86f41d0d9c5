"""The host's side: reaches a board, prepares it, sends jobs and reads what comes back.

profiles                        the boards a user named, and how each address is opened
transport                       what every way to a board can do: local, ssh, adb, emulated (shell, processes, folders)
setup, wheels, diagnosis        what a board needs, put there and checked
emulation                       aarch64 cores under qemu, where there is no board
runner, job_client, chunks, remote_inference   jobs and their results
records                         Run and Conditions, as JSON
"""
