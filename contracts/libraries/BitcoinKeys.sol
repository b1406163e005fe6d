// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Payees} from "./Payees.sol";

/// @title BitcoinKeys
/// @notice Signed messages of Bitcoin wallets (BIP-137), checked against a payee.
library BitcoinKeys {
    /// @notice A BIP-137 signature with the public key that made it.
    /// @param header 27-30 uncompressed P2PKH, 31-34 compressed P2PKH, 35-38 P2SH-P2WPKH, 39-42 P2WPKH.
    /// @param r The signature's r.
    /// @param s The signature's s; high values are accepted, since old wallets make them.
    /// @param x The public key's x.
    /// @param y The public key's y.
    struct Signature {
        uint8 header;
        bytes32 r;
        bytes32 s;
        uint256 x;
        uint256 y;
    }

    /// @notice The header is not one of BIP-137's 27 to 42.
    error InvalidHeader(uint8 header);
    /// @notice The header names recovery id 2 or 3, which the EVM cannot recover; sign again for another signature.
    error UnsupportedRecoveryId(uint8 recoveryId);
    /// @notice The point is not on secp256k1.
    error PointNotOnCurve(uint256 x, uint256 y);
    /// @notice The signature was not made by that key over that message.
    error WrongSigner();
    /// @notice The key, in the form that the header names, is not the payee's.
    error KeyNotOfPayee(bytes21 payee);

    uint256 private constant FIELD_PRIME = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F;

    uint8 private constant FIRST_HEADER = 27;
    uint8 private constant FIRST_COMPRESSED = 31;
    uint8 private constant FIRST_NESTED = 35;
    uint8 private constant FIRST_NATIVE_SEGWIT = 39;
    uint8 private constant LAST_HEADER = 42;

    /// @notice The digest a wallet signs: SHA256d(0x18 + "Bitcoin Signed Message:\n" + compact size + message).
    /// @dev Messages up to 65,535 bytes; ours have about two hundred.
    function digestOf(bytes memory message) internal pure returns (bytes32) {
        bytes memory size = message.length < 253
            ? abi.encodePacked(uint8(message.length))
            : abi.encodePacked(bytes1(0xfd), uint8(message.length), uint8(message.length >> 8));
        bytes memory preimage = abi.encodePacked(bytes1(0x18), "Bitcoin Signed Message:\n", size, message);
        return sha256(abi.encodePacked(sha256(preimage)));
    }

    /// @notice Reverts unless the owner of `payee` signed `message`.
    /// @dev The order of the checks is the order of the errors above.
    function check(bytes21 payee, bytes memory message, Signature calldata signature) internal pure {
        uint8 header = signature.header;
        if (header < FIRST_HEADER || header > LAST_HEADER) revert InvalidHeader(header);
        uint8 recoveryId = (header - FIRST_HEADER) & 3;
        if (recoveryId > 1) revert UnsupportedRecoveryId(recoveryId);

        uint256 x = signature.x;
        uint256 y = signature.y;
        // Without this, any (x, y) whose keccak256 ends in the recovered address would do, with only the parity of y
        // entering the key's hash: a search of about 2^80 for somebody else's payee.
        if (!_isOnCurve(x, y)) revert PointNotOnCurve(x, y);

        address signer = ecrecover(digestOf(message), FIRST_HEADER + recoveryId, signature.r, signature.s);
        if (signer == address(0) || signer != address(uint160(uint256(keccak256(abi.encode(x, y)))))) {
            revert WrongSigner();
        }
        if (!_isKeyOf(payee, header, x, y)) revert KeyNotOfPayee(payee);
    }

    /// @dev y^2 = x^3 + 7 over the field of secp256k1; (0, 0) and coordinates outside the field are not points.
    function _isOnCurve(uint256 x, uint256 y) private pure returns (bool) {
        if (x >= FIELD_PRIME || y >= FIELD_PRIME) return false;
        uint256 right = addmod(mulmod(mulmod(x, x, FIELD_PRIME), x, FIELD_PRIME), 7, FIELD_PRIME);
        return mulmod(y, y, FIELD_PRIME) == right;
    }

    /// @dev A nested payee takes any header of a compressed key, because wallets differ in the one they write.
    function _isKeyOf(bytes21 payee, uint8 header, uint256 x, uint256 y) private pure returns (bool) {
        uint8 kind = Payees.kindOf(payee);
        if (header < FIRST_COMPRESSED) {
            return payee == Payees.ofId(Payees.KIND_KEY, _hash160(abi.encodePacked(bytes1(0x04), x, y)));
        }
        bytes20 keyHash = _hash160(abi.encodePacked(y & 1 == 0 ? bytes1(0x02) : bytes1(0x03), x));
        if (kind == Payees.KIND_NESTED_KEY) {
            bytes20 programHash = _hash160(abi.encodePacked(bytes2(0x0014), keyHash));
            return payee == Payees.ofId(Payees.KIND_NESTED_KEY, programHash);
        }
        bool isNestedHeader = header >= FIRST_NESTED && header < FIRST_NATIVE_SEGWIT;
        return !isNestedHeader && payee == Payees.ofId(Payees.KIND_KEY, keyHash);
    }

    function _hash160(bytes memory data) private pure returns (bytes20) {
        return ripemd160(abi.encodePacked(sha256(data)));
    }
}
