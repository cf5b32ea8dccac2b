"""From result files to tables and verdicts one can trust. Reads JSON only: no torch, no networks."""
