"""The host's side: reaches a board, prepares it, sends jobs and reads what comes back.

profiles                        the boards that the user added, and how each address is opened
transport                       the interface of all transports: local, ssh, adb, emulated (shell, processes, folders)
setup, wheels, diagnosis        installs and checks what a board needs
emulation                       aarch64 cores under qemu, instead of a board
runner, job_client, chunks, remote_inference   jobs and their results
records                         Run and Conditions, as JSON
"""
