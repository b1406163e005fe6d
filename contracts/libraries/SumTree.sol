// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title SumTree
/// @notice The packed-sum Merkle tree: every node is one word, 24 bytes of hash followed by a uint64 sum.
/// @dev A proof that verifies proves that the sums along its path add up to the root's sum. So the shares of all
///      claims that can ever verify against one root never exceed 100 %, whatever the builder of the tree did, with
///      no counter in storage. What a proof does not show is that the tree is canonical (sorted, unique payees, zero
///      padding): that is the auditor's check.
library SumTree {
    /// @dev The low 8 bytes of a node: its sum.
    uint256 internal constant SUM_MASK = type(uint64).max;

    /// @notice The sum that a node carries.
    function sumOf(bytes32 node) internal pure returns (uint256) {
        return uint256(node) & SUM_MASK;
    }

    /// @notice The leaf of `payee`: keccak256(0x00 + payee + uint64 weight), cut to 24 bytes, followed by the weight.
    /// @dev The preimage has 30 bytes and a parent's has 64, so that neither can be passed off as the other.
    function leaf(bytes21 payee, uint64 weight) internal pure returns (bytes32) {
        bytes32 digest = keccak256(abi.encodePacked(bytes1(0), payee, weight));
        return bytes32((uint256(digest) & ~SUM_MASK) | weight);
    }

    /// @notice Whether `payee` has `weight` in the tree of `root`.
    /// @param index The leaf's place; bit i says on which side of its parent the path is at level i (0 = left).
    /// @param proof The sibling nodes from the bottom up.
    /// @return valid False for a weight outside 1 to 2^64-1, an index of 2^(proof length) or more, a sum above 2^64-1
    ///         anywhere on the path, or another root. It never reverts, so that one bad item cannot stop a batch.
    function verify(bytes32 root, bytes21 payee, uint256 weight, uint256 index, bytes32[] calldata proof)
        internal
        pure
        returns (bool valid)
    {
        if (weight == 0 || weight > SUM_MASK || index >> proof.length != 0) return false;
        // Both words of a parent's preimage, and a leaf's, fit into the scratch space, so no memory is allocated.
        assembly ("memory-safe") {
            let mask := 0xffffffffffffffff
            // The leaf's preimage, left-aligned in one word: a zero byte, 21 bytes of payee, 8 of weight. The shifts
            // move the payee by one byte and clear what may stand behind it.
            mstore(0x00, or(shl(80, shr(88, payee)), shl(16, weight)))
            let node := or(and(keccak256(0x00, 30), not(mask)), weight)
            // Sums only grow on the way up, and are not cut here: one that ever left 64 bits is seen at the end.
            let sum := weight
            let end := add(proof.offset, shl(5, proof.length))
            for { let at := proof.offset } lt(at, end) { at := add(at, 0x20) } {
                let sibling := calldataload(at)
                let side := shl(5, and(index, 1))
                mstore(side, node)
                mstore(xor(side, 0x20), sibling)
                sum := add(sum, and(sibling, mask))
                node := or(and(keccak256(0x00, 0x40), not(mask)), sum)
                index := shr(1, index)
            }
            valid := and(eq(node, root), iszero(shr(64, sum)))
        }
    }
}
