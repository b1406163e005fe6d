// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title Payees
/// @notice The 21-byte name of whoever is paid: one byte of kind, 20 bytes of id.
library Payees {
    /// @dev The id is an account of this chain.
    uint8 internal constant KIND_ACCOUNT = 0;
    /// @dev The id is HASH160 of a Bitcoin public key (P2PKH and P2WPKH addresses).
    uint8 internal constant KIND_KEY = 1;
    /// @dev The id is HASH160(0x0014 + HASH160(compressed public key)) (P2SH-P2WPKH addresses).
    uint8 internal constant KIND_NESTED_KEY = 2;

    /// @notice The payee that is `account`.
    function ofAccount(address account) internal pure returns (bytes21) {
        return bytes21(uint168(uint160(account)));
    }

    /// @notice The payee of `kind` whose id is `id`.
    function ofId(uint8 kind, bytes20 id) internal pure returns (bytes21) {
        return bytes21(uint168(uint256(kind) << 160 | uint160(id)));
    }

    /// @notice The kind of `payee`; kinds other than the three above have no owner.
    function kindOf(bytes21 payee) internal pure returns (uint8) {
        return uint8(payee[0]);
    }

    /// @notice The account that `payee` is, whatever its kind: check that first.
    function accountOf(bytes21 payee) internal pure returns (address) {
        return address(uint160(uint168(payee)));
    }
}
