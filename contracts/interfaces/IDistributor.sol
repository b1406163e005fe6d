// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {BitcoinKeys} from "../libraries/BitcoinKeys.sol";

/// @title IDistributor
/// @notice Holds block rewards and divides each by a Merkle root of weights that was fixed before the reward came.
///
/// What it promises, whatever the operator, a relayer or a stranger does:
///  - for every payout, what is paid never exceeds its amount;
///  - the balance covers everything not yet paid, plus what is owed, plus the fee;
///  - a payee is paid at most once a payout;
///  - no call of the operator changes what an existing payout pays;
///  - money attributed before a commit is never paid by that commit's root;
///  - nobody can pause, upgrade, sweep or withdraw.
///
/// What it assumes, and does not check:
///  - a committed root is the pool's true root: everybody can check that, from the published bundle;
///  - the reward asset is the chain's own coin, or a token whose balance never falls by itself;
///  - whoever calls `fund` names the root that the block's coinbase was committed to; a route contract proves that.
interface IDistributor {
    /// @notice One payout: an amount, divided by one root.
    /// @param root The packed-sum root; its last 8 bytes are the total weight.
    /// @param amount What is divided, in the asset's smallest unit; the fee is already off.
    /// @param epoch The epoch whose root it is; NO_EPOCH for a payout that was funded with a root of its own.
    /// @param time When it was recorded (block timestamp, seconds).
    struct Payout {
        bytes32 root;
        uint128 amount;
        uint64 epoch;
        uint64 time;
    }

    /// @notice One epoch's commitment.
    /// @param root The packed-sum root over (payee, weight).
    /// @param manifestHash SHA-256 of the epoch's published manifest.
    /// @param number Counts commits; the constructor's root is 0.
    /// @param activeFrom The first second at which it may receive money.
    struct Epoch {
        bytes32 root;
        bytes32 manifestHash;
        uint64 number;
        uint64 activeFrom;
    }

    /// @notice A payee's part of one payout, with its proof.
    struct Claim {
        uint256 payoutId;
        uint256 index;
        uint256 weight;
        bytes32[] proof;
    }

    /// @notice One payee's part of a payout that is claimed for many.
    struct PayeeClaim {
        bytes21 payee;
        uint256 index;
        uint256 weight;
        bytes32[] proof;
    }

    /* EVENTS */

    event Committed(uint64 indexed epoch, bytes32 indexed root, bytes32 indexed manifestHash, uint64 activeFrom);
    event Activated(uint64 indexed epoch);
    event PayoutRecorded(
        uint256 indexed payoutId,
        bytes32 indexed root,
        bytes32 indexed manifestHash,
        uint64 epoch,
        uint256 amount,
        uint256 fee
    );
    /// @notice `payee` was paid its part of every payout whose bit is set: payout id = word * 256 + bit.
    event Claimed(bytes21 indexed payee, address indexed recipient, uint256 word, uint256 bits, uint256 amount);
    event Owed(address indexed recipient, uint256 amount);
    event OwedWithdrawn(address indexed creditor, address indexed to, uint256 amount);
    event RecipientSet(bytes21 indexed payee, address indexed recipient, uint256 nonce);
    event FeeLowered(uint16 feeBps);
    event FeeWithdrawn(address indexed feeRecipient, uint256 amount);
    event OperatorProposed(address indexed proposed);
    event OperatorChanged(address indexed operator);

    /* ERRORS */

    error NotOperator(address caller);
    error NotProposedOperator(address caller);
    error ZeroAddress();
    error ZeroRootSum(bytes32 root);
    error EpochPending(uint64 epoch, uint64 activeFrom);
    error DelayAboveMaximum(uint64 delay, uint64 maximum);
    error FeeNotLower(uint16 current, uint16 wanted);
    error FeeAboveCap(uint16 feeBps, uint16 cap);
    error NothingFunded();
    error AmountTooLarge(uint256 amount);
    error NoClaims();
    error UnknownPayout(uint256 payoutId);
    error AlreadyClaimed(bytes21 payee, uint256 payoutId);
    error InvalidProof(bytes21 payee, uint256 payoutId);
    error NoRecipient(bytes21 payee);
    error InvalidRecipient(address recipient);
    error InvalidSignature(address account);
    error NotABitcoinPayee(bytes21 payee);
    error Expired(uint256 deadline);
    error NotEnoughGas(uint256 left, uint256 needed);
    error NothingOwed(address creditor);
    error SendFailed(address to);

    /* COMMITMENTS AND MONEY */

    /// @notice Commits the next epoch's root.
    /// @dev First activates a pending epoch that is due. With a delay of 0 the root is active at once, otherwise
    ///      `activationDelay` seconds later. Before any root becomes active, all money that has arrived and is not yet
    ///      attributed goes to the root active until then, whatever the amount.
    ///
    /// Requirements:
    ///  - the caller is the operator;
    ///  - the root's sum is not 0;
    ///  - no epoch is pending that is not yet due.
    /// @return epoch The new epoch's number.
    function commit(bytes32 root, bytes32 manifestHash) external returns (uint64 epoch);

    /// @notice Attributes money that has arrived to the active epoch as a payout, and activates an epoch that is due.
    /// @dev Anyone may call it. Less than `minPayout` waits, unless an epoch becomes active.
    function sync() external;

    /// @notice Pays `payee` its part of each of the payouts, in one transfer. Anyone may call it for anybody.
    /// @dev A transfer that the recipient refuses becomes owed to it; the claim succeeds.
    ///
    /// Requirements:
    ///  - at least one claim, each of a known payout, not yet claimed, with a valid proof;
    ///  - the payee has a recipient: itself, or the one it set or linked.
    /// @return amount What was paid or became owed.
    function claim(bytes21 payee, Claim[] calldata claims) external returns (uint256 amount);

    /// @notice Pays many payees their part of one payout. Items that cannot be paid are skipped.
    /// @return paid How many items were paid.
    /// @return amount What was paid or became owed.
    function claimMany(uint256 payoutId, PayeeClaim[] calldata claims) external returns (uint256 paid, uint256 amount);

    /// @notice Sends what is owed to the caller, because an earlier transfer to it failed, to `to`.
    function withdrawOwed(address to) external returns (uint256 amount);

    /// @notice Sends what is owed to `creditor` to `creditor`. Anyone may call it.
    /// @dev With all gas, unlike a claim: for a recipient that needs more than a claim gives and cannot call
    ///      `withdrawOwed`, or that has no gas of its own. Reverts when the recipient refuses again.
    function sendOwed(address creditor) external returns (uint256 amount);

    /// @notice Sends the fee to the fee recipient. Anyone may call it.
    function withdrawFee() external returns (uint256 amount);

    /* RECIPIENTS */

    /// @notice Sets where the caller's money goes from now on. The zero address means the caller itself.
    function setRecipient(address recipient) external;

    /// @notice The same by the signature (EIP-712, also ERC-1271) of `account`.
    /// @dev Signed type: SetRecipient(address account,address recipient,uint256 nonce,uint256 deadline).
    function setRecipientBySig(address account, address recipient, uint256 deadline, bytes calldata signature) external;

    /// @notice Sets where the money of a Bitcoin key goes, by a BIP-137 signature of `linkMessage`.
    ///
    /// Requirements:
    ///  - the payee's kind is 0x01 or 0x02 and the key is the payee's;
    ///  - the recipient is neither zero nor this contract; the deadline has not passed.
    function linkBitcoinKey(
        bytes21 payee,
        address recipient,
        uint256 deadline,
        BitcoinKeys.Signature calldata signature
    ) external;

    /// @notice The text that the owner of a Bitcoin key signs, with the payee's present nonce.
    function linkMessage(bytes21 payee, address recipient, uint256 deadline) external view returns (string memory);

    /* OPERATOR */

    /// @notice Lowers the fee on payouts recorded from now on. It can never be raised.
    function lowerFee(uint16 feeBps) external;

    /// @notice Proposes another operator, who has to accept. Zero takes a proposal back.
    function proposeOperator(address proposed) external;

    /// @notice Becomes operator after having been proposed.
    function acceptOperator() external;

    /* VIEWS */

    function operator() external view returns (address);
    function proposedOperator() external view returns (address);
    function feeBps() external view returns (uint16);
    function feeRecipient() external view returns (address);
    function feeOwed() external view returns (uint256);
    function minPayout() external view returns (uint256);
    function activationDelay() external view returns (uint64);
    /// @notice Everything not yet paid: open parts of payouts, owed money, fee. The rest of the balance is unattributed.
    function totalAccounted() external view returns (uint256);
    function activeEpoch() external view returns (Epoch memory);
    /// @notice The pending epoch; its root is 0 when there is none.
    function pendingEpoch() external view returns (Epoch memory);
    function payoutCount() external view returns (uint256);
    function payout(uint256 payoutId) external view returns (Payout memory);
    function isClaimed(bytes21 payee, uint256 payoutId) external view returns (bool);
    function claimedWord(bytes21 payee, uint256 word) external view returns (uint256 bits);
    /// @notice What these claims are worth now, each looked at by itself; one that is claimed already or proves nothing
    ///         counts 0, where `claim` would revert.
    function claimable(bytes21 payee, Claim[] calldata claims) external view returns (uint256 amount);
    /// @notice Where money of `payee` goes: set, linked, or the account itself; zero where nobody is known.
    function recipientOf(bytes21 payee) external view returns (address);
    function owed(address creditor) external view returns (uint256);
    function nonceOf(bytes21 payee) external view returns (uint256);
}
