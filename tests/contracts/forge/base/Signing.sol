// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {BitcoinKeys} from "../../../../contracts/libraries/BitcoinKeys.sol";
import {TestBase} from "./TestBase.sol";
import {Vm} from "./Vm.sol";

/// @title Signing
/// @notice Signatures as wallets make them, put together from the standards' texts and not from the contracts.
abstract contract Signing is TestBase {
    enum Form {
        Uncompressed,
        Compressed,
        Nested,
        Segwit
    }

    /// @dev EIP-712, SetRecipient.
    function recipientDigest(address distributor, address account, address recipient, uint256 nonce, uint256 deadline)
        internal
        view
        returns (bytes32)
    {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("pool_oracle Distributor"),
                keccak256("1"),
                block.chainid,
                distributor
            )
        );
        bytes32 typehash = keccak256("SetRecipient(address account,address recipient,uint256 nonce,uint256 deadline)");
        bytes32 message = keccak256(abi.encode(typehash, account, recipient, nonce, deadline));
        return keccak256(abi.encodePacked(hex"1901", domain, message));
    }

    function accountSignature(Vm.Wallet memory wallet, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(wallet.privateKey, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev The payee of a key in a form.
    function bitcoinPayee(Vm.Wallet memory key, Form form) internal pure returns (bytes21) {
        if (form == Form.Uncompressed) {
            bytes memory uncompressed = abi.encodePacked(hex"04", key.publicKeyX, key.publicKeyY);
            return bytes21(abi.encodePacked(hex"01", _hash160(uncompressed)));
        }
        bytes1 parity = key.publicKeyY % 2 == 0 ? bytes1(0x02) : bytes1(0x03);
        bytes20 keyHash = _hash160(abi.encodePacked(parity, key.publicKeyX));
        if (form != Form.Nested) return bytes21(abi.encodePacked(hex"01", keyHash));
        return bytes21(abi.encodePacked(hex"02", _hash160(abi.encodePacked(hex"0014", keyHash))));
    }

    /// @dev BIP-137, for messages shorter than 253 bytes.
    function bitcoinSignature(Vm.Wallet memory key, Form form, string memory message)
        internal
        pure
        returns (BitcoinKeys.Signature memory)
    {
        bytes memory text = bytes(message);
        vm.assertLe(text.length, 252, "a one-byte length");
        bytes32 digest = sha256(
            abi.encodePacked(
                sha256(abi.encodePacked("\x18Bitcoin Signed Message:\n", bytes1(uint8(text.length)), text))
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key.privateKey, digest);
        return BitcoinKeys.Signature(uint8(form) * 4 + v, r, s, key.publicKeyX, key.publicKeyY);
    }

    function _hash160(bytes memory data) private pure returns (bytes20) {
        return ripemd160(abi.encodePacked(sha256(data)));
    }
}
