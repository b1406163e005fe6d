// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {FormatsHarness} from "../../../contracts/mocks/FormatsHarness.sol";
import {SumTree} from "../../../contracts/libraries/SumTree.sol";
import {TestBase} from "./base/TestBase.sol";
import {Trees} from "./base/Trees.sol";

/// @title SumTreeTest
/// @notice SumTree.verify, in assembly, against its plain version and against trees made to deceive it.
contract SumTreeTest is TestBase {
    using Trees for Trees.Tree;

    FormatsHarness private immutable harness = new FormatsHarness();

    bytes21[] private payees;

    function setUp() external {
        for (uint256 i = 0; i < 4; ++i) {
            payees.push(bytes21(uint168(i * 2 ** 160 + 7 + i)));
        }
    }

    /* THE TWO VERSIONS AGREE */

    function testFuzz_bothVersionsAgreeOnAnything(
        bytes32 root,
        bytes21 payee,
        uint256 weight,
        uint256 index,
        bytes32[] calldata proof
    ) external view {
        _agree(root, payee, weight, index, proof);
        _agree(root, payee, weight % 2 ** 64, index & (2 ** (proof.length % 256) - 1), proof);
    }

    /// @dev The root is computed so that only the sums, the weight or the index can make the answer no.
    function testFuzz_bothVersionsAgreeWhereTheHashesAreRight(
        bytes21 payee,
        uint64 weight,
        uint256 index,
        bytes32[] memory proof,
        bool isSmall
    ) external view {
        index &= 2 ** (proof.length < 256 ? proof.length : 255) - 1;
        // Sums of 40 bits do not add up to 64, so that long paths which ought to verify are tried as well.
        if (isSmall) weight >>= 24;
        bytes32 node = SumTree.leaf(payee, weight);
        bool fits = weight > 0;
        for (uint256 i = 0; i < proof.length; ++i) {
            if (isSmall) proof[i] &= ~bytes32(uint256(0xffffff) << 40);
            uint256 sum = SumTree.sumOf(node) + SumTree.sumOf(proof[i]);
            fits = fits && sum <= type(uint64).max;
            bytes32 digest = index >> i & 1 == 0
                ? keccak256(abi.encode(node, proof[i]))
                : keccak256(abi.encode(proof[i], node));
            node = bytes32(uint256(digest) & ~uint256(type(uint64).max) | sum & type(uint64).max);
        }
        vm.assertEq(_agree(node, payee, weight, index, proof), fits, "right hashes");
    }

    function testFuzz_bothVersionsAgreeOnEveryTicketOfAnyTreeAndOnItsForgeries(uint256 seed) external view {
        Trees.Tree memory tree = Trees.malicious(payees, seed);
        for (uint256 i = 0; i < tree.ticketCount; ++i) {
            Trees.Ticket memory ticket = tree.tickets[i];
            vm.assertEq(_agreeOn(tree.root(), ticket), ticket.valid, "true sums verify, lying sums do not");
            Trees.Ticket memory mutated = Trees.mutated(ticket, draw(seed ^ i, "mutation"));
            _agreeOn(tree.root(), mutated);
        }
    }

    /* TREES MADE TO DECEIVE */

    function testFuzz_whatVerifiesInAnyTreeNeverAddsUpToMoreThanItsRoot(uint256 seed) external view {
        Trees.Tree memory tree = Trees.malicious(payees, seed);
        vm.assertLe(_payable(tree), SumTree.sumOf(tree.root()), "more than everything");
    }

    function testFuzz_inAnHonestTreeEveryWeightVerifiesAndTheyAddUpToTheRoot(uint256 seed) external view {
        uint256 count = 1 + seed % 13;
        bytes21[] memory all = new bytes21[](count);
        uint64[] memory weights = new uint64[](count);
        uint256 total = 0;
        for (uint256 i = 0; i < count; ++i) {
            all[i] = bytes21(uint168(i * 2 ** 150 + 1));
            weights[i] = uint64(bound(draw(seed, "weight") >> i, 1, 2 ** 60));
            total += weights[i];
        }
        Trees.Tree memory tree = Trees.honest(all, weights);
        vm.assertEq(tree.ticketCount, count, "a ticket each");
        vm.assertEq(SumTree.sumOf(tree.root()), total, "the root's sum");
        for (uint256 i = 0; i < count; ++i) {
            vm.assertTrue(tree.tickets[i].valid, "honest");
            vm.assertTrue(_agreeOn(tree.root(), tree.tickets[i]), "verifies");
        }
    }

    function testFuzz_noMutationOfATicketMakesItsPayeeRicher(uint256 seed) external view {
        Trees.Tree memory tree = Trees.honest(payees, _weights(seed));
        Trees.Ticket memory ticket = tree.tickets[seed % 4];
        Trees.Ticket memory mutated = Trees.mutated(ticket, draw(seed, "mutation"));
        bool isSame = keccak256(abi.encode(mutated.payee, mutated.index, mutated.weight, mutated.proof))
            == keccak256(abi.encode(ticket.payee, ticket.index, ticket.weight, ticket.proof));
        vm.assertEq(_agreeOn(tree.root(), mutated), isSame, "a changed ticket verifies");
    }

    function testFuzz_noInnerNodeCanBeClaimedAsALeaf(uint256 seed) external view {
        Trees.Tree memory tree = Trees.honest(payees, _weights(seed));
        vm.assertFalse(_agreeOn(tree.root(), Trees.nodeAsLeaf(tree, seed)), "a node passed for a leaf");
    }

    /// @dev The 64 bytes of a join, cut down to what a leaf's preimage has, and a leaf's preimage given as two words.
    function testFuzz_noPreimageOfALeafIsOneOfAJoin(bytes32 left, bytes32 right) external view {
        bytes32 digest = keccak256(abi.encode(left, right));
        uint64 weight = uint64(uint256(right) | 1);
        bytes32 root = bytes32(uint256(digest) & ~uint256(type(uint64).max) | weight);
        bytes32[] memory none = new bytes32[](0);
        for (uint256 shift = 0; shift <= 88; shift += 8) {
            vm.assertFalse(_agree(root, bytes21(left << shift), weight, 0, none), "a second preimage");
        }
    }

    /// @dev Bits of the index beyond the proof would give one place many names.
    function testFuzz_aPlaceHasOneName(uint256 seed, uint256 extra) external view {
        Trees.Tree memory tree = Trees.honest(payees, _weights(seed));
        Trees.Ticket memory ticket = tree.tickets[seed % 4];
        ticket.index |= bound(extra, 1, type(uint256).max >> ticket.proof.length) << ticket.proof.length;
        vm.assertFalse(_agreeOn(tree.root(), ticket), "an alias");
    }

    function testFuzz_sumsThatWrapAroundNeverVerify(uint64 first, uint64 second) external view {
        uint64 low = uint64(bound(first, 1, type(uint64).max));
        uint64 high = uint64(bound(second, uint256(type(uint64).max) - low + 1, type(uint64).max));
        bytes32 node = SumTree.leaf(payees[0], low);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = SumTree.leaf(payees[1], high);
        uint256 digest = uint256(keccak256(abi.encode(node, proof[0])));
        bytes32 wrapped = bytes32(digest & ~uint256(type(uint64).max) | uint256(low) + high - 2 ** 64);
        vm.assertFalse(_agree(wrapped, payees[0], low, 0, proof), "wrapped");
        // A level more that brings the wrapped sum back above the true one does not help either.
        bytes32[] memory longer = new bytes32[](2);
        (longer[0], longer[1]) = (proof[0], bytes32(uint256(type(uint64).max - 1 - SumTree.sumOf(wrapped) % 2 ** 63)));
        digest = uint256(keccak256(abi.encode(wrapped, longer[1])));
        uint256 sum = SumTree.sumOf(wrapped) + SumTree.sumOf(longer[1]);
        vm.assertFalse(
            _agree(bytes32(digest & ~uint256(type(uint64).max) | sum & type(uint64).max), payees[0], low, 0, longer),
            "wrapped below"
        );
    }

    /// @dev So that the campaign is not one against trees that never pay: both kinds must be common.
    function test_theGeneratorMakesTicketsThatVerifyAndTicketsThatLie() external view {
        uint256 valid = 0;
        uint256 lying = 0;
        for (uint256 seed = 0; seed < 200; ++seed) {
            Trees.Tree memory tree = Trees.malicious(payees, seed);
            for (uint256 i = 0; i < tree.ticketCount; ++i) {
                if (tree.tickets[i].valid) ++valid;
                else ++lying;
            }
        }
        vm.assertLe(150, valid, "tickets that verify");
        vm.assertLe(150, lying, "tickets that lie");
    }

    /* SYMBOLIC: `check_` functions are for halmos, which proves them for all arguments; see README.md */

    /// @dev Halmos wants to know where memory is written, so each index is tried as a number.
    /// @custom:halmos --loop 17 --array-lengths proof={0,1,2,3,4}
    function check_bothVersionsAgree(
        bytes32 root,
        bytes21 payee,
        uint256 weight,
        uint256 index,
        bytes32[] calldata proof
    ) external view {
        for (uint256 i = 0; i < 1 << proof.length; ++i) {
            if (index != i) continue;
            bool assembled = harness.verify(root, payee, weight, i, proof);
            assert(assembled == harness.verifyPlain(root, payee, weight, i, proof));
        }
    }

    /// @custom:halmos --array-lengths proof={0,1,2,3,4,8,16,32}
    function check_anIndexBeyondTheProofNeverVerifies(
        bytes32 root,
        bytes21 payee,
        uint256 weight,
        uint256 index,
        bytes32[] calldata proof
    ) external view {
        vm.assume(index >= 1 << proof.length);
        assert(!harness.verify(root, payee, weight, index, proof));
        assert(!harness.verifyPlain(root, payee, weight, index, proof));
    }

    /* HELPERS */

    function _agree(bytes32 root, bytes21 payee, uint256 weight, uint256 index, bytes32[] memory proof)
        private
        view
        returns (bool answer)
    {
        answer = harness.verify(root, payee, weight, index, proof);
        vm.assertEq(answer, harness.verifyPlain(root, payee, weight, index, proof), "assembly and plain version");
    }

    function _agreeOn(bytes32 root, Trees.Ticket memory ticket) private view returns (bool) {
        return _agree(root, ticket.payee, ticket.weight, ticket.index, ticket.proof);
    }

    /// @dev The most that all payees together can prove, each by its best ticket, as it can claim once.
    function _payable(Trees.Tree memory tree) private view returns (uint256 total) {
        for (uint256 who = 0; who < payees.length; ++who) {
            uint256 best = 0;
            for (uint256 i = 0; i < tree.ticketCount; ++i) {
                Trees.Ticket memory ticket = tree.tickets[i];
                if (ticket.payee != payees[who] || ticket.weight <= best) continue;
                if (_agreeOn(tree.root(), ticket)) best = ticket.weight;
            }
            total += best;
        }
    }

    function _weights(uint256 seed) private pure returns (uint64[] memory weights) {
        weights = new uint64[](4);
        for (uint256 i = 0; i < 4; ++i) {
            weights[i] = uint64(bound(draw(seed, "weight") >> 4 * i, 1, 2 ** 62 - 1));
        }
    }
}
