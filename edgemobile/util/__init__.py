"""Small things that every folder uses and that know nothing of models.

config_file  edgemobile.toml and devices.toml, with the line of a mistake
hashing      SHA-256
locking      locks between processes
junit        JUnit XML
markdown     text that is safe in GitHub's markdown
progress     how far a long step is
quiet        keeps the runtimes' own log lines off stderr
renaming     renames onto nothing, and exchanges of two names
strict_json  JSON that refuses what JSON does not have, read and written
writing      files written whole or not at all
"""
