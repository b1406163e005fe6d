"""The parts of scripts/deploy.py: settings, connection, contracts, and the record of what is deployed."""
