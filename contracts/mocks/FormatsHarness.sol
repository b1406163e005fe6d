// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {BitcoinKeys} from "../libraries/BitcoinKeys.sol";
import {Payees} from "../libraries/Payees.sol";
import {SumTree} from "../libraries/SumTree.sol";

/// @title FormatsHarness
/// @notice FOR TESTS ONLY. Lets tests call the libraries, and holds the plain version of `verify` as a reference.
contract FormatsHarness {
    function leaf(bytes21 payee, uint64 weight) external pure returns (bytes32) {
        return SumTree.leaf(payee, weight);
    }

    function verify(bytes32 root, bytes21 payee, uint256 weight, uint256 index, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return SumTree.verify(root, payee, weight, index, proof);
    }

    /// @notice The same as `verify`, in plain Solidity.
    function verifyPlain(bytes32 root, bytes21 payee, uint256 weight, uint256 index, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        if (weight == 0 || weight > type(uint64).max) return false;
        if (proof.length < 256 && index >= 1 << proof.length) return false;
        bytes32 node = SumTree.leaf(payee, uint64(weight));
        for (uint256 level = 0; level < proof.length; ++level) {
            uint256 sum = SumTree.sumOf(node) + SumTree.sumOf(proof[level]);
            if (sum > type(uint64).max) return false;
            bool isLeft = level >= 256 || index >> level & 1 == 0;
            bytes32 digest = isLeft
                ? keccak256(abi.encodePacked(node, proof[level]))
                : keccak256(abi.encodePacked(proof[level], node));
            node = bytes32(abi.encodePacked(bytes24(digest), uint64(sum)));
        }
        return node == root;
    }

    function payeeOfAccount(address account) external pure returns (bytes21) {
        return Payees.ofAccount(account);
    }

    function payeeOfId(uint8 kind, bytes20 id) external pure returns (bytes21) {
        return Payees.ofId(kind, id);
    }

    function kindOf(bytes21 payee) external pure returns (uint8) {
        return Payees.kindOf(payee);
    }

    function accountOf(bytes21 payee) external pure returns (address) {
        return Payees.accountOf(payee);
    }

    function messageDigest(bytes calldata message) external pure returns (bytes32) {
        return BitcoinKeys.digestOf(message);
    }

    function checkKey(bytes21 payee, bytes calldata message, BitcoinKeys.Signature calldata signature) external pure {
        BitcoinKeys.check(payee, message, signature);
    }
}
