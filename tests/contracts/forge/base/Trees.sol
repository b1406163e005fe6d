// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {SumTree} from "../../../../contracts/libraries/SumTree.sol";

/// @title Trees
/// @notice Builds packed-sum trees: the honest one, and whatever a malicious builder could commit to.
///
/// A tree is a list of nodes, each made from earlier ones: so a node may be used twice, hang at several depths, or be
/// joined with itself. A malicious join may carry any sum. Every path from the root to a leaf becomes a ticket, which
/// says whether its proof ought to verify: it does exactly if every sum on the path is the true one and fits 64 bits.
library Trees {
    struct Ticket {
        bytes21 payee;
        uint256 index;
        uint256 weight;
        bytes32[] proof;
        bool valid;
    }

    /// @dev `left` and `right` are node numbers, used where `isJoin`. `weight` is the one a leaf's preimage holds.
    struct Node {
        bytes32 word;
        bool isJoin;
        bool isLeaf;
        bool truthful;
        uint256 left;
        uint256 right;
        bytes21 payee;
        uint64 weight;
    }

    /// @dev The nodes made so far; the last one made is the root.
    struct Tree {
        Node[] nodes;
        uint256 size;
        uint256 loose; // every node before this one is under a join
        Ticket[] tickets;
        uint256 ticketCount;
    }

    uint256 private constant MAX_DEPTH = 10;
    uint256 private constant MAX_TICKETS = 16;
    uint256 private constant SUMS = type(uint64).max;

    /* BUILDERS */

    /// @notice The canonical tree. Payees must ascend; weights are at least 1.
    function honest(bytes21[] memory payees, uint64[] memory weights) internal pure returns (Tree memory tree) {
        uint256 width = payees.length;
        _reserve(tree, 2 * width + 8);
        uint256 zero = _opaque(tree, 0);
        uint256[] memory level = new uint256[](width + 1);
        for (uint256 i = 0; i < width; ++i) {
            level[i] = _leaf(tree, payees[i], weights[i]);
        }
        while (width > 1) {
            if (width % 2 == 1) level[width++] = zero;
            width /= 2;
            for (uint256 i = 0; i < width; ++i) {
                (uint256 left, uint256 right) = (level[2 * i], level[2 * i + 1]);
                level[i] = _join(tree, left, right, _sum(tree, left) + _sum(tree, right));
            }
        }
        _walk(tree);
    }

    /// @notice Any tree at all, from a seed: lying sums, sums that wrap around, leaves at several depths, shared
    ///         and doubled nodes, repeated payees, leaves of weight 0 or whose word has another sum, invented words.
    function malicious(bytes21[] memory payees, uint256 seed) internal pure returns (Tree memory tree) {
        _reserve(tree, 32);
        uint256 leaves = 1 + _next(seed, 1) % 6;
        for (uint256 i = 0; i < leaves; ++i) {
            uint256 random = _next(seed, 100 + i);
            uint256 made = _leaf(tree, payees[random % payees.length], _weight(random >> 16));
            if (random >> 8 & 7 == 0) _relabel(tree, made, _weight(random >> 128));
        }
        for (uint256 i = 0; i < _next(seed, 2) % 3; ++i) {
            uint256 random = _next(seed, 200 + i);
            _opaque(tree, random & 3 == 0 ? bytes32(0) : bytes32(random & ~SUMS | _weight(random >> 16)));
        }
        bool liar = _next(seed, 4) % 4 != 0;
        for (uint256 i = 0; tree.loose + 1 < tree.size && tree.size < 24; ++i) {
            _joinAny(tree, _next(seed, 300 + i), liar);
        }
        for (uint256 i = 0; i < _next(seed, 3) % 4; ++i) {
            _joinAny(tree, _next(seed, 400 + i), liar);
        }
        _walk(tree);
    }

    /// @notice The word that commits to the tree.
    function root(Tree memory tree) internal pure returns (bytes32) {
        return tree.nodes[tree.size - 1].word;
    }

    /// @notice A ticket that differs from a true one in one place.
    function mutated(Ticket memory ticket, uint256 seed) internal pure returns (Ticket memory other) {
        other = Ticket(ticket.payee, ticket.index, ticket.weight, ticket.proof, false);
        uint256 way = seed % 11;
        uint256 length = ticket.proof.length;
        if (way == 0) other.weight = ticket.weight + 1;
        if (way == 1) other.weight = ticket.weight | 1 << 64 + (seed >> 8) % 192; // the same in its low 64 bits
        if (way == 2) other.weight = 0;
        if (way == 3) other.index = ticket.index ^ 1 << (seed >> 8) % 256;
        if (way == 4) other.index = ticket.index | 1 << length % 256; // another depth's name for the same place
        if (way == 5) other.payee = ticket.payee ^ bytes21(uint168(2 ** ((seed >> 8) % 168)));
        if (way == 6) other.proof = _resized(ticket.proof, length + 1); // one level more above, beside nothing
        if (way == 10) _passOffAsNode(other, ticket.proof, seed >> 8);
        if (way == 7 && length > 0) other.proof = _resized(ticket.proof, length - 1);
        if (way == 8) other.weight = SUMS - (seed >> 8) % 4;
        if (way == 9 && length > 0) {
            other.proof = _resized(ticket.proof, length);
            other.proof[(seed >> 8) % length] ^= bytes32(1 << (seed >> 16) % 256);
        }
    }

    /// @notice An inner node passed off as a leaf: the node's sum as weight, and the rest of the path as its proof.
    /// @dev A leaf's preimage has 30 bytes and a join's 64, so the best that a forger has is the start of either word.
    function nodeAsLeaf(Tree memory tree, uint256 seed) internal pure returns (Ticket memory forged) {
        Ticket memory ticket = tree.tickets[seed % tree.ticketCount];
        forged = Ticket(ticket.payee, ticket.index, ticket.weight, ticket.proof, false);
        uint256 length = ticket.proof.length;
        if (length == 0) return mutated(ticket, seed);
        uint256 cut = 1 + (seed >> 8) % length;
        forged.index = ticket.index >> cut;
        forged.proof = new bytes32[](length - cut);
        uint256 sum = ticket.weight;
        for (uint256 i = 0; i < length; ++i) {
            if (i < cut) sum += SumTree.sumOf(ticket.proof[i]);
            else forged.proof[i - cut] = ticket.proof[i];
        }
        forged.weight = sum;
        bytes32 first = SumTree.leaf(ticket.payee, uint64(ticket.weight));
        forged.payee = bytes21((seed >> 16) % 2 == 0 ? first : ticket.proof[0]);
    }

    /* NODES */

    function _reserve(Tree memory tree, uint256 size) private pure {
        tree.nodes = new Node[](size);
        tree.tickets = new Ticket[](MAX_TICKETS);
    }

    function _sum(Tree memory tree, uint256 number) private pure returns (uint256) {
        return uint256(tree.nodes[number].word) & SUMS;
    }

    function _opaque(Tree memory tree, bytes32 word) private pure returns (uint256 number) {
        number = tree.size++;
        tree.nodes[number].word = word;
    }

    function _leaf(Tree memory tree, bytes21 payee, uint64 weight) private pure returns (uint256 number) {
        number = _opaque(tree, SumTree.leaf(payee, weight));
        Node memory node = tree.nodes[number];
        (node.isLeaf, node.payee, node.weight, node.truthful) = (true, payee, weight, weight > 0);
    }

    /// @dev The leaf's word from now on carries another sum than its preimage.
    function _relabel(Tree memory tree, uint256 number, uint64 sum) private pure {
        Node memory node = tree.nodes[number];
        node.truthful = node.truthful && sum == node.weight;
        node.word = bytes32(uint256(node.word) & ~SUMS | sum);
    }

    function _join(Tree memory tree, uint256 left, uint256 right, uint256 sum) private pure returns (uint256 number) {
        bytes32 digest = keccak256(abi.encode(tree.nodes[left].word, tree.nodes[right].word));
        number = _opaque(tree, bytes32(uint256(digest) & ~SUMS | sum & SUMS));
        Node memory node = tree.nodes[number];
        (node.isJoin, node.left, node.right) = (true, left, right);
        uint256 honestSum = _sum(tree, left) + _sum(tree, right);
        node.truthful = sum & SUMS == honestSum; // never for a sum above 64 bits
    }

    /// @dev Joins nodes that are under no join yet, where there are any, else any two: also one with itself.
    function _joinAny(Tree memory tree, uint256 random, bool liar) private pure {
        bool isLoose = tree.loose + 1 < tree.size;
        uint256 left = isLoose ? tree.loose++ : _next(random, 1) % tree.size;
        uint256 right = isLoose && _next(random, 2) % 3 != 0 ? tree.loose++ : _next(random, 3) % tree.size;
        if (random & 1 == 1) (left, right) = (right, left);
        uint256 sum = _sum(tree, left) + _sum(tree, right);
        _join(tree, left, right, liar ? _lie(sum, _sum(tree, left), random) : sum);
    }

    /* CHOICES */

    function _next(uint256 seed, uint256 label) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, label)));
    }

    /// @dev Small, ordinary, or so great that two of them wrap around; rarely 0.
    function _weight(uint256 random) private pure returns (uint64) {
        uint256 kind = random & 15;
        uint256 value = random >> 4;
        if (kind == 0) return 0;
        if (kind < 6) return uint64(1 + value % 10);
        if (kind < 12) return uint64(1 + value % 2 ** 57);
        if (kind < 14) return uint64(2 ** 63 + value % 3 - 1);
        return uint64(SUMS - value % 4);
    }

    /// @dev True (and wrapped, where it does not fit) in three of four cases, so that some paths go through.
    function _lie(uint256 honestSum, uint256 oneSide, uint256 random) private pure returns (uint256) {
        uint256 kind = random >> 8 & 31;
        if (kind == 0) return honestSum - (honestSum > 0 ? 1 : 0);
        if (kind == 1) return honestSum + 1;
        if (kind == 2) return oneSide;
        if (kind == 3) return honestSum / 2;
        if (kind == 4) return 1;
        if (kind == 5) return _weight(random >> 16);
        if (kind == 6) return 0;
        if (kind == 7) return SUMS;
        return honestSum;
    }

    /// @dev The leaf given as the join of two others, one of which is claimed.
    function _passOffAsNode(Ticket memory other, bytes32[] memory proof, uint256 seed) private pure {
        other.proof = new bytes32[](proof.length + 1);
        other.proof[0] = bytes32(seed % 2 == 0 ? 0 : seed);
        for (uint256 i = 0; i < proof.length; ++i) {
            other.proof[i + 1] = proof[i];
        }
        other.index = other.index << 1 | seed >> 1 & 1;
        if (seed % 3 == 0) other.weight -= other.weight / 2;
    }

    function _resized(bytes32[] memory proof, uint256 length) private pure returns (bytes32[] memory other) {
        other = new bytes32[](length);
        for (uint256 i = 0; i < length && i < proof.length; ++i) {
            other[i] = proof[i];
        }
    }

    /* TICKETS */

    /// @dev Every path from the root, up to a depth and a number.
    function _walk(Tree memory tree) private pure {
        _descend(tree, tree.size - 1, true, 0, 0, new bytes32[](MAX_DEPTH));
    }

    /// @param turns Bit i is the side taken at the i-th join from the root.
    function _descend(
        Tree memory tree,
        uint256 number,
        bool truthful,
        uint256 depth,
        uint256 turns,
        bytes32[] memory siblings
    ) private pure {
        Node memory node = tree.nodes[number];
        truthful = truthful && node.truthful;
        if (node.isLeaf && tree.ticketCount < MAX_TICKETS) {
            bytes32[] memory proof = new bytes32[](depth);
            uint256 index = 0;
            for (uint256 i = 0; i < depth; ++i) {
                proof[i] = siblings[depth - 1 - i];
                index |= (turns >> (depth - 1 - i) & 1) << i;
            }
            tree.tickets[tree.ticketCount++] = Ticket(node.payee, index, node.weight, proof, truthful);
        }
        if (node.isJoin && depth < MAX_DEPTH) {
            siblings[depth] = tree.nodes[node.right].word;
            _descend(tree, node.left, truthful, depth + 1, turns, siblings);
            siblings[depth] = tree.nodes[node.left].word;
            _descend(tree, node.right, truthful, depth + 1, turns | 1 << depth, siblings);
        }
    }
}
