"""A whole pool on one machine, from the first share to the last claimed wei: `pool-oracle demo`."""
