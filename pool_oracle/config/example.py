"""The configuration that `pool-oracle init` writes: every setting, what it means, and its default."""

from __future__ import annotations

EXAMPLE = """\
# pool_oracle's configuration. Every line is explained; lines that begin with '#' show the default.

[pool]
name = "my pool"
# The network that is mined: main, test, signet, regtest, litecoin, litecoin-test, litecoin-regtest. Only regtest has a
# node built in; all others need at least one [[node]], see below.
network = "regtest"
# Where the share log, the bundles and the built-in node's chain are kept.
data = "data"
# Regtest networks only: account and submit blocks by this target instead of the network's, which any hash in two meets.
emulated_network_target = "0x0000100000000000000000000000000000000000000000000000000000000000"

[stratum]
# host = "0.0.0.0"
# port = 3333
# The share difficulty that a connection begins with: a decimal number or a fraction.
share_difficulty = "0.000001"
# What vardiff aims at, 1 to 600 shares a minute for each connection; 0 leaves everybody at share_difficulty.
# shares_per_minute = 8
# Bytes of extranonce2 that miners roll: 4 to 8. Rental proxies want at least 4.
# extranonce2_size = 8
# Processes that serve miners; 0 is the pool's own. Each takes a core when it has much to do.
# workers = 0
# A certificate (PEM, with its chain) and its key, for miners that speak TLS.
#   certificate = "fullchain.pem"
#   private_key = "privkey.pem"
# Networks of load balancers that announce miners by the PROXY protocol.
# proxies = []

# Limits for each connection and address: docs/operator.md names them. What stands here replaces a default.
#   [stratum.limits]
#   max_connections_per_address = 1024

[policy]
# How shares become weights: "pplns", "prop" or "solo"; or "pps", "fpps" or "pps+", which need a treasury that carries
# the luck (docs/payouts.md explains each). A pool keeps its scheme for life.
# scheme = "pplns"
# The window X, in blocks of work: 1 to 127. It may change; a change holds from the next close on.
# window = 8
# The fee in basis points (1/100 of a percent). The distributor takes it by its own setting; under "pps", "fpps" and
# "pps+" it comes off the weights instead, and the distributor's has to be 0.
# fee_bps = 0
# Who a "solo" pool mines for: an address of the network, or 0x...
#   solo_payee = "bc1q..."
# "pps", "fpps" and "pps+": the account (0x...) that pays for shares, and that blocks pay, so it has to be the
# genesis_payee too; and the odds of its ruin that it must hold a reserve against, one in so many.
#   treasury = "0x..."
#   ruin_odds = 1000
# Who epoch 0 pays, before the first shares: an address of the network, or 0x... It stands in the first manifest.
genesis_payee = "0x..."
# An epoch closes, where there were shares, after so many seconds; after so many shares, if that is sooner (0: never);
# and, if close_at_tip, with every new block of the network.
# epoch_seconds = 600
# epoch_shares = 0
# close_at_tip = false
# Which epochs are committed on chain: "each", or "found", those alone that a block of ours pays. That saves gas; jobs
# then carry commitments that the chain does not have yet.
# commit = "each"
# For how many seconds after a new tip shares of the tip before are still accepted: 0 to 60.
# stale_grace_seconds = 1

[chain]
# The EVM chain's node, or several in order of preference: ["http://...", "http://..."]. Of three or more a majority
# has to agree on the head.
rpc = "http://127.0.0.1:8545"
# The contracts on it.
distributor = "0x..."
# How rewards get there: "flyover" (Rootstock's bridge; flyover_route is its contract), or "deposit" (an address of
# the network whose holder brings the money by hand, and has to be trusted for it).
# route = "flyover"
flyover_route = "0x..."
#   deposit_address = "bc1q..."
# The operator's key, which signs commits. Best a keystore (version 3) with its password in a file, or a signer on
# another machine (eth_signTransaction) for the operator's address; or the owners of a Safe sign what is written into
# the data folder. A file with the bare key (0x and 64 hex digits) is for trying things out. Files are yours alone.
operator_key_file = "operator.key"
#   operator_keystore = "operator.json"
#   operator_password_file = "operator.password"
#   remote_signer = "http://127.0.0.1:9000"
#   operator = "0x..."
#   safe = "0x..."
# The most that a transaction may offer for gas, in gwei: a whole number.
# max_fee_gwei = 100
# max_tip_gwei = 10
# At which depth a transaction counts as done, and at which it is not looked after any more.
# confirmations = 1
# final_depth = 30
# The chain's id; where it is not given, the first node that answers decides on the first start.
#   chain_id = 30
# Whether the bridge's own deposit address is P2SH-P2WSH.
# nested_deposits = true
# Feed Bitcoin headers to the bridge. Only the development bridge of a local chain needs that.
# relay_headers = false

[api]
# host = "127.0.0.1"
# port = 8080

# Where the SQL index is kept; a file in the data folder where nothing is said. A password belongs in ~/.pgpass.
#   [index]
#   url = "postgresql://pool@host/pool"

# Where bundles are published besides the data folder, before their epoch is committed (docs/operator.md): "kubo", the
# HTTP API of an IPFS node, or "put", a WebDAV or object server. Each is a section of its own; log in by a file with a
# bearer token, or by user and password_file. An optional one delays no commit.
#   [[publish]]
#   kind = "put"
#   url = "https://files.example.org/my-pool"
#   token_file = "publish.token"
#   user = "pool"
#   password_file = "publish.password"
#   optional = false

# Nodes of the network, in order of preference (docs/operator.md). Templates come from the first that works, found
# blocks go to all of them. Each is a section of its own; log in by the cookie file, or by user and password_file.
#   [[node]]
#   url = "http://127.0.0.1:8332"
#   cookie_file = "~/.bitcoin/.cookie"
#   user = "pool"
#   password_file = "node.password"
#   zmq_hashblock = "tcp://127.0.0.1:28332"
#   name = "local"
"""
