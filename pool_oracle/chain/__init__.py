"""The EVM side: contracts, transactions, routes. Knows roots and payees, not shares."""
