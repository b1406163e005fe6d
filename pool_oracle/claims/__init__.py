"""Getting paid: what is claimable, by which proof, and the transactions that claim, relay, link and register."""
