"""Bitcoin's work, pure: targets, headers, merkle branches, coinbases, template to job, share to header hash.

Byte orders: hashes are in internal order unless a name says `display`; integers of headers are little-endian there.
"""
