"""Studies: which runs, carried out where, and how long they take."""
