"""The gate for CI: edgemobile.toml says what must hold of which model; what changed is run, and everything is judged.

config -> plan what is known (cache, by content) -> run the rest -> judge -> GateReport -> terminal, JUnit, markdown
"""
