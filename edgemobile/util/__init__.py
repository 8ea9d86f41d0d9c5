"""Small modules that every folder uses and that do not depend on models.

config_file  edgemobile.toml and devices.toml, with the line of an error
hashing      SHA-256
locking      locks between processes
junit        JUnit XML
markdown     text that is safe in GitHub's markdown
progress     progress of long steps
quiet        keeps the runtimes' own log lines off stderr
renaming     renames that never overwrite, and exchange of two names
strict_json  strict JSON, read into records and written
writing      atomic writes of files
"""
