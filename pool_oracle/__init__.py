"""pool_oracle: a mining pool whose payouts nobody has to trust the operator for."""

__version__ = "0.1.0"
