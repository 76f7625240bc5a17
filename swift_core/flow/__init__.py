"""Flow matching: noise levels, solvers, guidance."""
