"""Who gets what, pure: payees, the unit timeline, the sum tree, commitments, manifests, signed links.

Integers only; no float decides anything here.
"""
