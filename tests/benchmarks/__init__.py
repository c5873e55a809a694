"""`make bench`: this system beside two baselines, measured in one run. `python -m tests.benchmarks --help` tells how."""
