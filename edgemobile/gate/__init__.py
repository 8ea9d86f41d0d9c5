"""The gate for CI: edgemobile.toml sets bounds for models; what changed is run, and everything is checked.

config -> find cached results (by content) -> run the rest -> check -> GateReport -> terminal, JUnit, markdown
"""
