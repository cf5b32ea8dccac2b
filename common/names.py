"""Names that several rooms must agree on, said once."""

BASELINE = "baseline"  # what the scripts call the dense network as a method
PROTOCOLS = ("paper", "metric")  # conventions of training and scoring, see the README
