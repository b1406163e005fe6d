// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {IDistributor} from "./interfaces/IDistributor.sol";
import {BitcoinKeys} from "./libraries/BitcoinKeys.sol";
import {Payees} from "./libraries/Payees.sol";
import {SumTree} from "./libraries/SumTree.sol";

/// @title Distributor
/// @notice The asset-independent part: commitments, payouts, claims, recipients. See IDistributor for what it promises.
abstract contract Distributor is IDistributor, EIP712, ReentrancyGuardTransient {
    /// @notice The epoch of payouts that were funded with a root of their own.
    uint64 public constant NO_EPOCH = type(uint64).max;

    uint16 internal constant BASIS_POINTS = 10_000;

    /// @dev A longer delay would be a mistake, and one near 2^64 would stop every commit.
    uint64 internal constant MAX_ACTIVATION_DELAY = 30 days;

    bytes32 private constant SET_RECIPIENT_TYPEHASH =
        keccak256("SetRecipient(address account,address recipient,uint256 nonce,uint256 deadline)");

    /// @notice The settings that never change, except the fee, which can only fall.
    struct Settings {
        address operator;
        address feeRecipient;
        uint16 feeBps;
        uint16 feeCapBps;
        uint64 activationDelay;
        uint256 minPayout;
        bytes32 genesisRoot;
        bytes32 genesisManifestHash;
    }

    /* IMMUTABLES */

    /// @inheritdoc IDistributor
    address public immutable feeRecipient;
    /// @inheritdoc IDistributor
    uint64 public immutable activationDelay;
    /// @inheritdoc IDistributor
    uint256 public immutable minPayout;

    /* STORAGE */

    // The operator, the fee and the active epoch's numbers share one slot, so that a commit writes three.
    /// @inheritdoc IDistributor
    address public operator;
    /// @inheritdoc IDistributor
    uint16 public feeBps;
    uint32 internal _activeNumber;
    uint48 internal _activeFrom;
    bytes32 internal _activeRoot;
    bytes32 internal _activeManifestHash;
    Epoch internal _pending;

    /// @inheritdoc IDistributor
    address public proposedOperator;
    /// @inheritdoc IDistributor
    uint256 public totalAccounted;
    /// @inheritdoc IDistributor
    uint256 public feeOwed;
    /// @inheritdoc IDistributor
    uint256 public payoutCount;

    mapping(uint256 payoutId => Payout) internal _payouts;
    /// @inheritdoc IDistributor
    mapping(bytes21 payee => mapping(uint256 word => uint256 bits)) public claimedWord;
    /// @inheritdoc IDistributor
    mapping(address creditor => uint256) public owed;
    /// @inheritdoc IDistributor
    mapping(bytes21 payee => uint256) public nonceOf;
    mapping(bytes21 payee => address) internal _recipientOf;

    modifier onlyOperator() {
        if (msg.sender != operator) revert NotOperator(msg.sender);
        _;
    }

    constructor(Settings memory settings) EIP712("pool_oracle Distributor", "1") {
        if (settings.operator == address(0) || settings.feeRecipient == address(0)) revert ZeroAddress();
        if (settings.feeCapBps > BASIS_POINTS) revert FeeAboveCap(settings.feeCapBps, BASIS_POINTS);
        if (settings.feeBps > settings.feeCapBps) revert FeeAboveCap(settings.feeBps, settings.feeCapBps);
        if (SumTree.sumOf(settings.genesisRoot) == 0) revert ZeroRootSum(settings.genesisRoot);
        if (settings.activationDelay > MAX_ACTIVATION_DELAY) {
            revert DelayAboveMaximum(settings.activationDelay, MAX_ACTIVATION_DELAY);
        }
        operator = settings.operator;
        emit OperatorChanged(settings.operator);
        feeRecipient = settings.feeRecipient;
        feeBps = settings.feeBps;
        activationDelay = settings.activationDelay;
        minPayout = settings.minPayout;
        uint64 time = uint64(block.timestamp);
        emit Committed(0, settings.genesisRoot, settings.genesisManifestHash, time);
        _activate(Epoch(settings.genesisRoot, settings.genesisManifestHash, 0, time));
    }

    /* COMMITMENTS AND MONEY */

    /// @inheritdoc IDistributor
    function commit(bytes32 root, bytes32 manifestHash) external onlyOperator nonReentrant returns (uint64 epoch) {
        if (SumTree.sumOf(root) == 0) revert ZeroRootSum(root);
        uint64 activeFrom = uint64(block.timestamp) + activationDelay;
        if (activationDelay == 0) {
            epoch = _activeNumber + 1;
            emit Committed(epoch, root, manifestHash, activeFrom);
            _attribute(0);
            _activate(Epoch(root, manifestHash, epoch, activeFrom));
        } else {
            if (_pending.root != 0) {
                if (!_isDue()) revert EpochPending(_pending.number, _pending.activeFrom);
                _activatePending();
            }
            epoch = _activeNumber + 1;
            emit Committed(epoch, root, manifestHash, activeFrom);
            _pending = Epoch(root, manifestHash, epoch, activeFrom);
        }
    }

    /// @inheritdoc IDistributor
    function sync() external nonReentrant {
        if (_pending.root != 0 && _isDue()) _activatePending();
        _attribute(minPayout);
    }

    /// @inheritdoc IDistributor
    function claim(bytes21 payee, Claim[] calldata claims) external nonReentrant returns (uint256 amount) {
        if (claims.length == 0) revert NoClaims();
        address recipient = recipientOf(payee);
        if (recipient == address(0)) revert NoRecipient(payee);

        // One word of claimed bits serves 256 payouts: it is read and written once for a run of claims within it.
        mapping(uint256 word => uint256 bits) storage claimed = claimedWord[payee];
        uint256 word = claims[0].payoutId >> 8;
        uint256 before = claimed[word];
        uint256 bits = before;
        uint256 wordAmount = 0;
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata item = claims[i];
            uint256 id = item.payoutId;
            if (id >> 8 != word) {
                claimed[word] = bits;
                emit Claimed(payee, recipient, word, bits ^ before, wordAmount);
                amount += wordAmount;
                word = id >> 8;
                before = bits = claimed[word];
                wordAmount = 0;
            }
            uint256 bit = 1 << (id & 0xff);
            if (bits & bit != 0) revert AlreadyClaimed(payee, id);
            bits |= bit;
            wordAmount += _partOf(payee, id, item);
        }
        claimed[word] = bits;
        emit Claimed(payee, recipient, word, bits ^ before, wordAmount);
        amount += wordAmount;
        _pay(recipient, amount);
    }

    /// @inheritdoc IDistributor
    function claimMany(uint256 payoutId, PayeeClaim[] calldata claims)
        external
        nonReentrant
        returns (uint256 paid, uint256 amount)
    {
        Payout memory source = _payouts[payoutId];
        if (source.root == 0) revert UnknownPayout(payoutId);
        uint256 word = payoutId >> 8;
        uint256 bit = 1 << (payoutId & 0xff);
        for (uint256 i = 0; i < claims.length; ++i) {
            PayeeClaim calldata item = claims[i];
            address recipient = recipientOf(item.payee);
            uint256 bits = claimedWord[item.payee][word];
            if (recipient == address(0) || bits & bit != 0) continue;
            if (!SumTree.verify(source.root, item.payee, item.weight, item.index, item.proof)) continue;
            uint256 part = _share(source.amount, item.weight, source.root);
            claimedWord[item.payee][word] = bits | bit;
            emit Claimed(item.payee, recipient, word, bit, part);
            _pay(recipient, part);
            amount += part;
            ++paid;
        }
    }

    /// @inheritdoc IDistributor
    function withdrawOwed(address to) external nonReentrant returns (uint256 amount) {
        if (to == address(0) || to == address(this)) revert InvalidRecipient(to);
        return _sendOwed(msg.sender, to);
    }

    /// @inheritdoc IDistributor
    function sendOwed(address creditor) external nonReentrant returns (uint256 amount) {
        return _sendOwed(creditor, creditor);
    }

    /// @inheritdoc IDistributor
    function withdrawFee() external nonReentrant returns (uint256 amount) {
        amount = feeOwed;
        if (amount == 0) revert NothingOwed(feeRecipient);
        feeOwed = 0;
        totalAccounted -= amount;
        emit FeeWithdrawn(feeRecipient, amount);
        if (!_send(feeRecipient, amount, gasleft())) revert SendFailed(feeRecipient);
    }

    /* RECIPIENTS */

    /// @inheritdoc IDistributor
    function setRecipient(address recipient) external {
        bytes21 payee = Payees.ofAccount(msg.sender);
        _setRecipient(payee, recipient, _useNonce(payee));
    }

    /// @inheritdoc IDistributor
    function setRecipientBySig(address account, address recipient, uint256 deadline, bytes calldata signature)
        external
    {
        if (block.timestamp > deadline) revert Expired(deadline);
        bytes21 payee = Payees.ofAccount(account);
        uint256 nonce = _useNonce(payee);
        bytes32 digest =
            _hashTypedDataV4(keccak256(abi.encode(SET_RECIPIENT_TYPEHASH, account, recipient, nonce, deadline)));
        if (!SignatureChecker.isValidSignatureNow(account, digest, signature)) revert InvalidSignature(account);
        _setRecipient(payee, recipient, nonce);
    }

    /// @inheritdoc IDistributor
    function linkBitcoinKey(
        bytes21 payee,
        address recipient,
        uint256 deadline,
        BitcoinKeys.Signature calldata signature
    ) external {
        if (block.timestamp > deadline) revert Expired(deadline);
        uint8 kind = Payees.kindOf(payee);
        if (kind != Payees.KIND_KEY && kind != Payees.KIND_NESTED_KEY) revert NotABitcoinPayee(payee);
        if (recipient == address(0)) revert InvalidRecipient(recipient);
        BitcoinKeys.check(payee, bytes(linkMessage(payee, recipient, deadline)), signature);
        _setRecipient(payee, recipient, _useNonce(payee));
    }

    /// @inheritdoc IDistributor
    function linkMessage(bytes21 payee, address recipient, uint256 deadline) public view returns (string memory) {
        return string.concat(
            "pool_oracle: pay my mining rewards to ",
            Strings.toHexString(recipient),
            ", chain ",
            Strings.toString(block.chainid),
            ", distributor ",
            Strings.toHexString(address(this)),
            ", nonce ",
            Strings.toString(nonceOf[payee]),
            ", deadline ",
            Strings.toString(deadline)
        );
    }

    /* OPERATOR */

    /// @inheritdoc IDistributor
    function lowerFee(uint16 wantedBps) external onlyOperator {
        if (wantedBps >= feeBps) revert FeeNotLower(feeBps, wantedBps);
        feeBps = wantedBps;
        emit FeeLowered(wantedBps);
    }

    /// @inheritdoc IDistributor
    function proposeOperator(address proposed) external onlyOperator {
        proposedOperator = proposed;
        emit OperatorProposed(proposed);
    }

    /// @inheritdoc IDistributor
    function acceptOperator() external {
        if (msg.sender != proposedOperator) revert NotProposedOperator(msg.sender);
        operator = msg.sender;
        delete proposedOperator;
        emit OperatorChanged(msg.sender);
    }

    /* VIEWS */

    /// @inheritdoc IDistributor
    function activeEpoch() external view returns (Epoch memory) {
        return Epoch(_activeRoot, _activeManifestHash, _activeNumber, _activeFrom);
    }

    /// @inheritdoc IDistributor
    function pendingEpoch() external view returns (Epoch memory) {
        return _pending;
    }

    /// @inheritdoc IDistributor
    function payout(uint256 payoutId) external view returns (Payout memory) {
        if (_payouts[payoutId].root == 0) revert UnknownPayout(payoutId);
        return _payouts[payoutId];
    }

    /// @inheritdoc IDistributor
    function isClaimed(bytes21 payee, uint256 payoutId) public view returns (bool) {
        return claimedWord[payee][payoutId >> 8] >> (payoutId & 0xff) & 1 != 0;
    }

    /// @inheritdoc IDistributor
    function claimable(bytes21 payee, Claim[] calldata claims) external view returns (uint256 amount) {
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata item = claims[i];
            Payout storage source = _payouts[item.payoutId];
            if (isClaimed(payee, item.payoutId)) continue;
            if (!SumTree.verify(source.root, payee, item.weight, item.index, item.proof)) continue;
            amount += _share(source.amount, item.weight, source.root);
        }
    }

    /// @inheritdoc IDistributor
    function recipientOf(bytes21 payee) public view returns (address recipient) {
        recipient = _recipientOf[payee];
        if (recipient == address(0) && Payees.kindOf(payee) == Payees.KIND_ACCOUNT) return Payees.accountOf(payee);
    }

    /* INTERNAL: MONEY */

    /// @dev The asset's balance of this contract.
    function _balance() internal view virtual returns (uint256);

    /// @dev Tries to send; false when the recipient refused. `gasCap` bounds what its code may burn.
    function _send(address to, uint256 amount, uint256 gasCap) internal virtual returns (bool);

    /// @dev The gas that a recipient's code may use during a claim.
    function _sendGas() internal view virtual returns (uint256);

    /// @dev Records everything that has arrived as a payout of the active epoch, if it is at least `minimum`.
    function _attribute(uint256 minimum) private {
        uint256 arrived = _balance() - totalAccounted;
        if (arrived == 0 || arrived < minimum) return;
        // More than a payout can hold, which no coin has, waits for the next one instead of stopping every commit.
        if (arrived > type(uint128).max) arrived = type(uint128).max;
        _record(_activeRoot, _activeManifestHash, _activeNumber, arrived);
    }

    /// @dev Records a payout of `received`, which is already in the balance.
    function _record(bytes32 root, bytes32 manifestHash, uint64 epoch, uint256 received) internal returns (uint256 id) {
        if (received > type(uint128).max) revert AmountTooLarge(received);
        uint256 fee = received * feeBps / BASIS_POINTS;
        uint256 amount = received - fee;
        id = payoutCount++;
        // forge-lint: disable-next-line(unsafe-typecast) checked two lines above
        _payouts[id] = Payout(root, uint128(amount), epoch, uint64(block.timestamp));
        totalAccounted += received;
        if (fee != 0) feeOwed += fee;
        emit PayoutRecorded(id, root, manifestHash, epoch, amount, fee);
    }

    function _isDue() private view returns (bool) {
        return block.timestamp >= _pending.activeFrom;
    }

    /// @dev Money that arrived before this moment belongs to the root active until now.
    function _activatePending() private {
        _attribute(0);
        _activate(_pending);
        delete _pending;
    }

    /// @dev Makes an epoch the one that money belongs to from now on.
    function _activate(Epoch memory epoch) private {
        _activeNumber = uint32(epoch.number); // 2^32 epochs of a second each are 136 years
        _activeFrom = uint48(epoch.activeFrom);
        _activeRoot = epoch.root;
        _activeManifestHash = epoch.manifestHash;
        emit Activated(epoch.number);
    }

    /// @dev The part of one claim. Reverts on an unknown payout or a proof that does not verify.
    function _partOf(bytes21 payee, uint256 id, Claim calldata item) private view returns (uint256) {
        Payout storage source = _payouts[id];
        bytes32 root = source.root;
        if (root == 0) revert UnknownPayout(id);
        uint256 weight = item.weight;
        if (!SumTree.verify(root, payee, weight, item.index, item.proof)) revert InvalidProof(payee, id);
        return _share(source.amount, weight, root);
    }

    /// @dev amount * weight / total, rounded down. 128 + 64 bits cannot overflow; a proven weight's total is not 0.
    function _share(uint256 amount, uint256 weight, bytes32 root) private pure returns (uint256) {
        unchecked {
            return amount * weight / SumTree.sumOf(root);
        }
    }

    /// @dev Pays, or owes. Whoever calls cannot make a payment fail by giving it too little gas. On a chain that does not
    ///      keep back 1/64 of the gas at each call (Rootstock, at most 400 calls deep) it can by calling from the deepest
    ///      place; `sendOwed` mends that.
    function _pay(address recipient, uint256 amount) private {
        if (amount == 0) return;
        totalAccounted -= amount;
        uint256 gasCap = _sendGas();
        uint256 needed = gasCap * 64 / 63 + 40_000;
        if (gasleft() < needed) revert NotEnoughGas(gasleft(), needed);
        if (!_send(recipient, amount, gasCap)) {
            totalAccounted += amount;
            owed[recipient] += amount;
            emit Owed(recipient, amount);
        }
    }

    /// @dev Sends all that is owed to `creditor`, with all gas, or reverts.
    function _sendOwed(address creditor, address to) private returns (uint256 amount) {
        amount = owed[creditor];
        if (amount == 0) revert NothingOwed(creditor);
        owed[creditor] = 0;
        totalAccounted -= amount;
        emit OwedWithdrawn(creditor, to, amount);
        if (!_send(to, amount, gasleft())) revert SendFailed(to);
    }

    /* INTERNAL: RECIPIENTS */

    /// @dev Every change uses a nonce, so that a newer wish kills all older signatures.
    function _useNonce(bytes21 payee) private returns (uint256) {
        unchecked {
            return nonceOf[payee]++; // one more than 2^256 changes cannot happen
        }
    }

    function _setRecipient(bytes21 payee, address recipient, uint256 nonce) private {
        if (recipient == address(this)) revert InvalidRecipient(recipient);
        _recipientOf[payee] = recipient;
        emit RecipientSet(payee, recipient, nonce);
    }
}
