"""Stratum V1 over TCP: framing, messages, sessions. It speaks; the pool decides."""
