"""Every error of the package, one tree. Rooms raise these; edges translate them into their own language.

PoolOracleError
|-- InputError              something from outside is not as it must be        (CLI exit code 2)
|   |-- PayeeError              an address or a payee
|   |-- TargetError             a target, nbits or share difficulty
|   |-- TreeError               leaves that make no tree
|   |-- WindowError             a window or the shares for one
|   |-- JobError                a job, a share's fields, a coinbase, a template
|   |-- ManifestError           a manifest, or a bundle that does not fit it
|   |-- SignatureError          a signed message
|   `-- ConfigError             the configuration file or the environment
|-- ProofError              a proof that does not verify                       (CLI exit code 1)
|-- ShareRefused            a share that is not accepted, with its stratum code (20 to 25)
|-- LedgerError             the share log cannot be written or read
|   |-- CorruptLog              a record whose checksum or order is wrong, with segment and offset
|   `-- PublishError            a bundle cannot be written or published: a disk is full, a server fails
|-- NodeError               the Bitcoin node
|   |-- NodeRefused             the node answered a call with an error, with its code
|   `-- BlockRejected           the node's validation refused a block, with its reason
|-- ChainError              the EVM chain: node, contract or transaction
|   |-- ChainUnreachable        no node of the chain answers, or none that may be believed
|   |-- ChainRefused            the node answered a call with an error
|   |   |-- NonceTooLow             the account has used this nonce already
|   |   |-- Underpriced             the fees are too low, or no more than what they would replace
|   |   |-- AlreadyKnown            the node has this very transaction
|   |   `-- InsufficientFunds       the account cannot pay for gas and value
|   |-- TransactionReverted     a call or transaction that the contract refused, with its error's name
|   |-- FeesTooHigh             the chain wants higher fees than the settings allow
|   |-- SigningFailed           a remote signer does not sign, or not what it was asked to
|   |-- OutboxError             the journal of transactions cannot be written, read or had for ourselves
|   |-- AlreadyDone             what should be sent was done by somebody else
|   `-- NotSent                 a dry run or a proposal ends here: nothing was sent
|-- SourceError             a pool's API does not answer, or not as one
`-- SetupError              a program, key or file that is needed is missing, with how to get it
"""

from __future__ import annotations


class PoolOracleError(Exception):
    """Base of all errors of this package. Its text is one line: what was wrong, where, what would be right."""


class InputError(PoolOracleError):
    """Raised when data from outside is not as it must be."""


class PayeeError(InputError):
    """Raised when a text is no address of the network, or bytes are no payee."""


class TargetError(InputError):
    """Raised when a target, nbits or share difficulty is out of range."""


class TreeError(InputError):
    """Raised when leaves make no valid sum tree."""


class WindowError(InputError):
    """Raised when a window is not 1 to 127, or a share in it is invalid."""


class JobError(InputError):
    """Raised when a job, a template, a coinbase or the fields of a share are malformed."""


class ManifestError(InputError):
    """Raised when a manifest is not canonical, or a bundle does not fit its manifest."""


class SignatureError(InputError):
    """Raised when a signed message does not show what it should."""


class ConfigError(InputError):
    """Raised when the configuration is missing or wrong."""


class ProofError(PoolOracleError):
    """Raised when a sum tree proof does not verify."""


class ShareRefused(PoolOracleError):
    """Raised when a share is not accepted.

    `code` is the stratum error code: 20 other, 21 stale or unknown job, 22 duplicate, 23 low difficulty,
    24 unauthorized worker, 25 not subscribed.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class LedgerError(PoolOracleError):
    """Raised when the share log cannot be written or read."""


class CorruptLog(LedgerError):
    """Raised when a record of the share log is damaged or out of order; the text names segment and offset."""


class PublishError(LedgerError):
    """Raised when a bundle cannot be written or published. What was there stays, and it can be tried again."""


class NodeError(PoolOracleError):
    """Raised when the Bitcoin node does not do its work."""


class NodeRefused(NodeError):
    """Raised when a node answers a call with an error. `code` is JSON-RPC's (Bitcoin Core, rpc/protocol.h)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class BlockRejected(NodeError):
    """Raised when the node's validation refuses a block. `reason` is the node's own word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"block rejected: {reason}")
        self.reason = reason


class ChainError(PoolOracleError):
    """Raised when the EVM chain, its node or a transaction fails."""


class ChainRefused(ChainError):
    """Raised when the chain's node answers a call with an error."""


class ChainUnreachable(ChainError):
    """Raised when no node of the chain answers, or too few agree; asking again later may help."""


class NonceTooLow(ChainRefused):
    """Raised when the account has used a transaction's nonce already."""


class Underpriced(ChainRefused):
    """Raised when a transaction's fees are below what the node takes, or do not outbid what they would replace."""


class AlreadyKnown(ChainRefused):
    """Raised when a node has a transaction already. Nothing is wrong then."""


class InsufficientFunds(ChainRefused):
    """Raised when the account cannot pay for gas and value; the text says what it has and what it needs."""


class FeesTooHigh(ChainError):
    """Raised when the chain wants more per gas than the settings allow."""


class SigningFailed(ChainError):
    """Raised when a remote signer does not answer, refuses, or signs something else."""


class OutboxError(ChainError):
    """Raised when the journal of transactions is damaged, cannot be written, or is held by another process."""


class AlreadyDone(ChainError):
    """Raised when a transaction need not be sent: the caller's question found it done by somebody else."""


class NotSent(ChainError):
    """Raised in place of a receipt where nothing is to be sent: in a dry run, and where a Safe has to sign."""


class TransactionReverted(ChainError):
    """Raised when a contract refuses a call. `error` is the name of its custom error, with arguments."""

    def __init__(self, what: str, error: str) -> None:
        super().__init__(f"{what} reverted: {error}")
        self.error = error


class SourceError(PoolOracleError):
    """Raised when a pool's API does not answer, or not as one."""


class SetupError(PoolOracleError):
    """Raised when a program, key or file that is needed is missing; the text says how to get it."""
