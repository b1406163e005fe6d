// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IBridge} from "../interfaces/IBridge.sol";

/// @title DevBridge
/// @notice FOR LOCAL CHAINS ONLY. Stands where Rootstock's bridge stands, with its ABI, and does in Solidity what the
///         real one does in its node: keeps Bitcoin headers, checks a transaction's proof against them, derives the
///         flyover address, and pays the calling contract. Nobody signs anything here, and whoever sets it up first
///         owns its settings. Its money is put there by the test chain.
/// @dev Placed by setting code at an address, so it has no constructor. Simpler than the real one: headers form one
///      chain without forks, from an anchor; the deposit has one form (`isNested`), and there is no locking cap.
contract DevBridge is IBridge {
    /// @dev What is known of one Bitcoin block. Hashes are in internal byte order.
    struct Header {
        bytes32 hash;
        bytes32 merkleRoot;
    }

    /// @dev Where the reader stands in a partial merkle tree.
    struct Walk {
        uint256 total;
        uint256 hashesAt;
        uint256 hashCount;
        uint256 flagsAt;
        uint256 flagCount;
        uint256 usedHashes;
        uint256 usedFlags;
        bytes32 matched;
        uint256 matches;
    }

    uint256 private constant CONFIRMATIONS = 100;
    uint256 private constant WEI_PER_SATOSHI = 1e10;

    bytes private _powpegRedeemScript;
    bool public isNested;
    uint256 public anchorHeight;
    uint256 public bestHeight;
    mapping(uint256 height => Header) private _headers;
    mapping(bytes32 key => bool) private _processed;

    error AlreadySetUp();
    error HeaderLength(uint256 length);
    error HeaderNotOnTip(bytes32 previous, bytes32 tip);
    error HeaderWithoutWork(bytes32 hash, uint256 target);
    error Malformed(bytes data);

    /// @notice Sets the PowPeg's redeem script, the form of deposits, and the block that headers continue from.
    function setUp(bytes calldata powpegRedeemScript, bool nested, bytes32 anchorHash, uint256 height) external {
        if (_powpegRedeemScript.length != 0) revert AlreadySetUp();
        _powpegRedeemScript = powpegRedeemScript;
        isNested = nested;
        anchorHeight = height;
        bestHeight = height;
        _headers[height].hash = anchorHash;
    }

    /// @inheritdoc IBridge
    function receiveHeaders(bytes[] calldata blocks) external {
        for (uint256 i = 0; i < blocks.length; ++i) {
            bytes calldata header = blocks[i];
            if (header.length != 80) revert HeaderLength(header.length);
            bytes32 tip = _headers[bestHeight].hash;
            bytes32 previous = bytes32(header[4:36]);
            if (previous != tip) revert HeaderNotOnTip(previous, tip);
            bytes32 hash = _sha256d(header);
            uint256 target = _targetOf(_littleEndian(header, 72, 4));
            if (_reversed(hash) > target) revert HeaderWithoutWork(hash, target);
            _headers[++bestHeight] = Header(hash, bytes32(header[36:68]));
        }
    }

    /// @inheritdoc IBridge
    function registerFastBridgeBtcTransaction(
        bytes calldata btcTx,
        uint256 height,
        bytes calldata pmt,
        bytes32 args,
        bytes calldata userRefund,
        address payable lbc,
        bytes calldata lp,
        bool shouldTransferToContract
    ) external returns (int256) {
        if (msg.sender.code.length == 0) return -300;
        if (msg.sender != lbc || !shouldTransferToContract) return -301;
        if (userRefund.length != 21 || lp.length != 21) return -303;
        return _credit(btcTx, height, pmt, keccak256(abi.encodePacked(args, userRefund, lbc, lp)));
    }

    /// @inheritdoc IBridge
    function getActivePowpegRedeemScript() external view returns (bytes memory) {
        return _powpegRedeemScript;
    }

    /// @inheritdoc IBridge
    function getBtcBlockchainBestChainHeight() external view returns (int256) {
        // forge-lint: disable-next-line(unsafe-typecast) a block height
        return int256(bestHeight);
    }

    /// @dev Checks the transaction against the headers and pays the caller what it paid the derived address.
    function _credit(bytes calldata btcTx, uint256 height, bytes calldata pmt, bytes32 derivation)
        private
        returns (int256)
    {
        bytes32 txid = _sha256d(btcTx);
        bytes32 key = keccak256(abi.encode(txid, derivation));
        if (_processed[key]) return -302;
        if (height <= anchorHeight || height > bestHeight) return -303;
        if (bestHeight - height + 1 < CONFIRMATIONS) return -303;
        if (!_isProven(pmt, txid, _headers[height].merkleRoot)) return -303;
        uint256 value = _paidTo(btcTx, _depositScript(derivation));
        if (value == 0) return -304;
        _processed[key] = true;
        uint256 amount = value * WEI_PER_SATOSHI;
        (bool sent,) = msg.sender.call{value: amount}("");
        // forge-lint: disable-next-line(unsafe-typecast) 21 million coins in wei fit
        return sent ? int256(amount) : int256(-900);
    }

    /* BITCOIN */

    function _depositScript(bytes32 derivation) private view returns (bytes32) {
        bytes memory redeem = abi.encodePacked(bytes1(0x20), derivation, bytes1(0x75), _powpegRedeemScript);
        bytes memory inner = isNested ? abi.encodePacked(bytes2(0x0020), sha256(redeem)) : redeem;
        bytes20 scriptHash = ripemd160(abi.encodePacked(sha256(inner)));
        return keccak256(abi.encodePacked(bytes2(0xa914), scriptHash, bytes1(0x87)));
    }

    /// @dev The sum of all outputs of a transaction without witness data whose script hashes to `scriptHash`.
    function _paidTo(bytes calldata btcTx, bytes32 scriptHash) private pure returns (uint256 value) {
        uint256 at = 4;
        uint256 count;
        (count, at) = _compactSize(btcTx, at);
        for (; count > 0; --count) {
            uint256 length;
            (length, at) = _compactSize(btcTx, at + 36);
            at += length + 4;
        }
        (count, at) = _compactSize(btcTx, at);
        for (; count > 0; --count) {
            uint256 amount = _littleEndian(btcTx, at, 8);
            uint256 length;
            (length, at) = _compactSize(btcTx, at + 8);
            if (at + length > btcTx.length) revert Malformed(btcTx);
            if (keccak256(btcTx[at:at + length]) == scriptHash) value += amount;
            at += length;
        }
        if (at + 4 != btcTx.length) revert Malformed(btcTx);
    }

    /// @dev Whether a partial merkle tree (BIP-37) of exactly one match proves `txid` in `merkleRoot`.
    function _isProven(bytes calldata pmt, bytes32 txid, bytes32 merkleRoot) private pure returns (bool) {
        Walk memory walk;
        walk.total = _littleEndian(pmt, 0, 4);
        (walk.hashCount, walk.hashesAt) = _compactSize(pmt, 4);
        uint256 flagBytes;
        (flagBytes, walk.flagsAt) = _compactSize(pmt, walk.hashesAt + 32 * walk.hashCount);
        walk.flagCount = flagBytes * 8;
        if (walk.flagsAt + flagBytes != pmt.length || walk.total == 0) return false;
        uint256 depth = 0;
        while (_width(walk.total, depth) > 1) ++depth;
        bytes32 root = _descend(pmt, walk, depth, 0);
        bool isUsedUp = walk.usedHashes == walk.hashCount && (walk.usedFlags + 7) / 8 == flagBytes;
        return isUsedUp && walk.matches == 1 && walk.matched == txid && root == merkleRoot;
    }

    function _descend(bytes calldata pmt, Walk memory walk, uint256 level, uint256 position)
        private
        pure
        returns (bytes32)
    {
        if (walk.usedFlags >= walk.flagCount) revert Malformed(pmt);
        uint256 flag = uint8(pmt[walk.flagsAt + walk.usedFlags / 8]) >> (walk.usedFlags % 8) & 1;
        ++walk.usedFlags;
        if (level == 0 || flag == 0) {
            if (walk.usedHashes >= walk.hashCount) revert Malformed(pmt);
            uint256 at = walk.hashesAt + 32 * walk.usedHashes;
            ++walk.usedHashes;
            bytes32 hash = bytes32(pmt[at:at + 32]);
            if (level == 0 && flag == 1) {
                walk.matched = hash;
                ++walk.matches;
            }
            return hash;
        }
        bytes32 left = _descend(pmt, walk, level - 1, position * 2);
        bytes32 right = left;
        if (position * 2 + 1 < _width(walk.total, level - 1)) {
            right = _descend(pmt, walk, level - 1, position * 2 + 1);
            if (right == left) revert Malformed(pmt); // CVE-2012-2459
        }
        return _sha256d(abi.encodePacked(left, right));
    }

    function _width(uint256 total, uint256 level) private pure returns (uint256) {
        return (total + (1 << level) - 1) >> level;
    }

    function _targetOf(uint256 nbits) private pure returns (uint256) {
        uint256 exponent = nbits >> 24;
        uint256 mantissa = nbits & 0x007fffff;
        return exponent <= 3 ? mantissa >> 8 * (3 - exponent) : mantissa << 8 * (exponent - 3);
    }

    function _compactSize(bytes calldata data, uint256 at) private pure returns (uint256 value, uint256 next) {
        uint256 first = _littleEndian(data, at, 1);
        if (first < 0xfd) return (first, at + 1);
        uint256 size = first == 0xfd ? 2 : first == 0xfe ? 4 : 8;
        return (_littleEndian(data, at + 1, size), at + 1 + size);
    }

    function _littleEndian(bytes calldata data, uint256 at, uint256 size) private pure returns (uint256 value) {
        if (at + size > data.length) revert Malformed(data);
        for (uint256 i = size; i > 0; --i) {
            value = value << 8 | uint8(data[at + i - 1]);
        }
    }

    function _reversed(bytes32 word) private pure returns (uint256 value) {
        for (uint256 i = 32; i > 0; --i) {
            value = value << 8 | uint8(word[i - 1]);
        }
    }

    function _sha256d(bytes memory data) private pure returns (bytes32) {
        return sha256(abi.encodePacked(sha256(data)));
    }
}
