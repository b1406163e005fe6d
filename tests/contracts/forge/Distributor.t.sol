// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Distributor} from "../../../contracts/Distributor.sol";
import {IDistributor} from "../../../contracts/interfaces/IDistributor.sol";
import {NativeDistributor} from "../../../contracts/NativeDistributor.sol";
import {SumTree} from "../../../contracts/libraries/SumTree.sol";
import {BitcoinKeys} from "../../../contracts/libraries/BitcoinKeys.sol";
import {DistributorFixture} from "./base/DistributorFixture.sol";
import {Trees} from "./base/Trees.sol";
import {Troublemaker} from "./base/Troublemaker.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title DistributorTest
/// @notice Each call of the distributor by itself, with any arguments.
contract DistributorTest is DistributorFixture {
    using Trees for Trees.Tree;

    /* THE CONSTRUCTOR */

    function testFuzz_settingsAreTakenExactlyIfTheyMakeSense(Distributor.Settings memory terms) external {
        terms.activationDelay %= 60 days;
        terms.feeBps %= 12_000;
        terms.feeCapBps %= 12_000;
        bool isGood = terms.operator != address(0) && terms.feeRecipient != address(0) && terms.feeCapBps <= 10_000
            && terms.feeBps <= terms.feeCapBps && SumTree.sumOf(terms.genesisRoot) > 0
            && terms.activationDelay <= 30 days;
        try new NativeDistributor(terms) returns (NativeDistributor made) {
            vm.assertTrue(isGood, "settings that make no sense");
            vm.assertEq(made.operator(), terms.operator, "operator");
            vm.assertEq(made.feeRecipient(), terms.feeRecipient, "fee recipient");
            vm.assertEq(uint256(made.feeBps()), terms.feeBps, "fee");
            vm.assertEq(uint256(made.activationDelay()), terms.activationDelay, "delay");
            vm.assertEq(made.minPayout(), terms.minPayout, "minimum");
            IDistributor.Epoch memory epoch = made.activeEpoch();
            vm.assertEq(epoch.root, terms.genesisRoot, "root");
            vm.assertEq(epoch.manifestHash, terms.genesisManifestHash, "manifest");
            vm.assertEq(uint256(epoch.activeFrom), block.timestamp, "time");
        } catch {
            vm.assertFalse(isGood, "settings that make sense");
        }
    }

    function test_eachSettingThatMakesNoSenseIsNamed() external {
        Distributor.Settings memory terms = settings();
        terms.operator = address(0);
        vm.expectRevert(IDistributor.ZeroAddress.selector);
        make(terms);
        (terms.operator, terms.feeRecipient) = (operator, address(0));
        vm.expectRevert(IDistributor.ZeroAddress.selector);
        make(terms);
        (terms.feeRecipient, terms.feeCapBps) = (feeRecipient, 10_001);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.FeeAboveCap.selector, 10_001, 10_000));
        make(terms);
        (terms.feeBps, terms.feeCapBps) = (501, 500);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.FeeAboveCap.selector, 501, 500));
        make(terms);
        (terms.feeBps, terms.genesisRoot) = (0, bytes32(uint256(1) << 64));
        vm.expectRevert(abi.encodeWithSelector(IDistributor.ZeroRootSum.selector, terms.genesisRoot));
        make(terms);
        (terms.genesisRoot, terms.activationDelay) = (bytes32(uint256(1)), 30 days + 1);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.DelayAboveMaximum.selector, 30 days + 1, 30 days));
        make(terms);
    }

    /* COMMIT AND SYNC */

    function testFuzz_onlyTheOperatorCommitsAndOnlyARootWithWeight(address caller, bytes32 root) external {
        vm.assume(caller != operator);
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NotOperator.selector, caller));
        pool.commit(root, MANIFEST);

        vm.prank(operator);
        if (SumTree.sumOf(root) == 0) {
            vm.expectRevert(abi.encodeWithSelector(IDistributor.ZeroRootSum.selector, root));
            pool.commit(root, MANIFEST);
        } else {
            vm.assertEq(pool.commit(root, MANIFEST), 1, "epoch");
            vm.assertEq(pool.activeEpoch().root, root, "active");
        }
        bytes32 empty = bytes32(uint256(root) & ~uint256(type(uint64).max));
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.ZeroRootSum.selector, empty));
        pool.commit(empty, MANIFEST);
    }

    function testFuzz_moneyThatCameBeforeACommitIsThePreviousRoots(uint128 before, uint128 afterwards, bytes32 root)
        external
    {
        root |= bytes32(uint256(1));
        uint256 first = bound(before, 1, type(uint128).max - 1);
        uint256 second = bound(afterwards, 1, type(uint128).max - first);
        reward(first);
        vm.prank(operator);
        pool.commit(root, MANIFEST);
        payout(second);
        vm.assertEq(pool.payout(0).root, tree().root(), "the first payout's root");
        vm.assertEq(uint256(pool.payout(0).amount), first, "the first payout");
        vm.assertEq(pool.payout(1).root, root, "the second payout's root");
        vm.assertEq(uint256(pool.payout(1).amount), second, "the second payout");
    }

    function testFuzz_aPendingRootWaitsItsWholeDelayAndNothingPushesItAside(uint64 delay, uint64 wait, uint96 amount)
        external
    {
        Distributor.Settings memory terms = settings();
        terms.activationDelay = uint64(bound(delay, 1, 30 days));
        terms.minPayout = type(uint256).max;
        pool = make(terms);
        bytes32 root = bytes32(uint256(77));
        uint256 due = block.timestamp + terms.activationDelay;
        vm.prank(operator);
        pool.commit(root, MANIFEST);
        vm.assertEq(uint256(pool.pendingEpoch().activeFrom), due, "when it is due");
        vm.warp(block.timestamp + bound(wait, 0, 2 * uint256(terms.activationDelay)));
        reward(amount);
        bool isDue = block.timestamp >= due;

        vm.prank(operator);
        if (!isDue) vm.expectRevert(abi.encodeWithSelector(IDistributor.EpochPending.selector, 1, due));
        pool.commit(bytes32(uint256(78)), MANIFEST);
        if (!isDue) pool.sync();
        vm.assertEq(pool.activeEpoch().root, isDue ? root : terms.genesisRoot, "active");
        // Below the minimum it waits; an activation attributes it whatever it is, to the root until then.
        vm.assertEq(pool.payoutCount(), isDue && amount > 0 ? 1 : 0, "payouts");
        if (isDue && amount > 0) vm.assertEq(pool.payout(0).root, terms.genesisRoot, "whose money it was");
    }

    function testFuzz_syncActivatesWhatIsDueAndAnybodyMayCallIt(address caller, uint96 amount) external {
        Distributor.Settings memory terms = settings();
        terms.activationDelay = 1 days;
        pool = make(terms);
        vm.prank(operator);
        pool.commit(bytes32(uint256(77)), MANIFEST);
        vm.warp(block.timestamp + 1 days);
        reward(amount);
        vm.prank(caller);
        pool.sync();
        vm.assertEq(pool.activeEpoch().root, bytes32(uint256(77)), "active");
        vm.assertEq(pool.pendingEpoch().root, 0, "pending");
        vm.assertEq(pool.payoutCount(), amount > 0 ? 1 : 0, "payouts");
    }

    function testFuzz_syncRecordsWhatArrivedFromTheMinimumOn(uint128 minimum, uint128 amount) external {
        Distributor.Settings memory terms = settings();
        terms.minPayout = minimum;
        pool = make(terms);
        reward(amount);
        pool.sync();
        bool isRecorded = amount > 0 && amount >= minimum;
        vm.assertEq(pool.payoutCount(), isRecorded ? 1 : 0, "payouts");
        vm.assertEq(pool.totalAccounted(), isRecorded ? amount : 0, "accounted");
    }

    function testFuzz_anyAmountOfMoneyIsRecordedInPiecesOf128Bits(uint256 amount) external {
        amount = bound(amount, 1, 2 ** 130);
        reward(amount);
        uint256 pieces = 0;
        for (uint256 left = amount; left > 0; ++pieces) {
            pool.sync();
            uint256 piece = left > type(uint128).max ? type(uint128).max : left;
            vm.assertEq(uint256(pool.payout(pieces).amount), piece, "a piece");
            left -= piece;
        }
        pool.sync();
        vm.assertEq(pool.payoutCount(), pieces, "pieces");
    }

    /* FUND */

    function testFuzz_fundingRecordsExactlyWhatWasSentWithItsOwnRoot(bytes32 root, uint256 value, uint96 waiting)
        external
    {
        reward(waiting);
        value = bound(value, 0, uint256(type(uint128).max) + 2);
        vm.deal(stranger, value);
        vm.prank(stranger);
        try pool.fund{value: value}(root, MANIFEST) returns (uint256 id) {
            vm.assertTrue(SumTree.sumOf(root) > 0 && value > 0 && value <= type(uint128).max, "a bad fund");
            IDistributor.Payout memory made = pool.payout(id);
            vm.assertEq(made.root, root, "root");
            vm.assertEq(uint256(made.amount), value, "amount");
            vm.assertEq(uint256(made.epoch), pool.NO_EPOCH(), "epoch");
            vm.assertEq(pool.totalAccounted(), value, "what waits, waits");
        } catch {
            vm.assertTrue(SumTree.sumOf(root) == 0 || value == 0 || value > type(uint128).max, "a good fund");
        }
    }

    function test_eachReasonNotToFundIsNamed() external {
        vm.deal(address(this), 2 ** 129);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.ZeroRootSum.selector, bytes32(0)));
        pool.fund{value: 1}(0, MANIFEST);
        vm.expectRevert(IDistributor.NothingFunded.selector);
        pool.fund(bytes32(uint256(1)), MANIFEST);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.AmountTooLarge.selector, 2 ** 128));
        pool.fund{value: 2 ** 128}(bytes32(uint256(1)), MANIFEST);
    }

    /* CLAIM */

    function testFuzz_everyPartIsTheProductRoundedDownAndTogetherTheyFit(uint128 amount, uint256 seed) external {
        uint256 total = bound(amount, 1, type(uint128).max);
        for (uint256 i = 0; i < 3; ++i) {
            weights[i] = uint64(bound(draw(seed, "weight") >> 80 * i, 1, 2 ** 62));
        }
        pool = make(settings());
        payout(total);
        uint256 sum = uint256(weights[0]) + weights[1] + weights[2];
        uint256 paid = 0;
        for (uint256 i = 0; i < 3; ++i) {
            IDistributor.Claim[] memory claims = claimOf(tree().tickets[i], 0);
            uint256 part = total * weights[i] / sum;
            vm.assertEq(pool.claimable(payees[i], claims), part, "claimable");
            vm.prank(stranger);
            vm.assertEq(pool.claim(payees[i], claims), part, "amount");
            vm.assertEq(accountOf(payees[i]).balance, part, "paid");
            vm.assertTrue(pool.isClaimed(payees[i], 0), "claimed");
            vm.assertEq(pool.claimable(payees[i], claims), 0, "nothing more");
            paid += part;
        }
        vm.assertEq(address(pool).balance, total - paid, "dust");
        vm.assertEq(pool.totalAccounted(), total - paid, "accounted");
        vm.assertLe(total - paid, 2, "less than a unit a payee");
    }

    function testFuzz_aClaimThatProvesNothingIsNamed(uint256 id, uint256 seed) external {
        payout(1000);
        Trees.Ticket memory ticket = tree().tickets[seed % 3];
        vm.expectRevert(IDistributor.NoClaims.selector);
        pool.claim(ticket.payee, new IDistributor.Claim[](0));
        id = bound(id, 1, NEVER);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.UnknownPayout.selector, id));
        pool.claim(ticket.payee, claimOf(ticket, id));
        vm.expectRevert(abi.encodeWithSelector(IDistributor.UnknownPayout.selector, id));
        pool.payout(id);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.UnknownPayout.selector, id));
        pool.claimMany(id, new IDistributor.PayeeClaim[](0));
        vm.assertEq(pool.claimable(ticket.payee, claimOf(ticket, id)), 0, "an unknown payout is worth nothing");

        Trees.Ticket memory other = tree().tickets[(seed % 3 + 1) % 3];
        other.payee = ticket.payee;
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidProof.selector, other.payee, 0));
        pool.claim(other.payee, claimOf(other, 0));
        vm.assertEq(pool.claimable(other.payee, claimOf(other, 0)), 0, "a wrong proof is worth nothing");
    }

    function testFuzz_aPayeeWithoutARecipientWaits(bytes21 payee) external {
        vm.assume(payee[0] != 0 || payee == 0);
        payees = [payee];
        weights = [1];
        pool = make(settings());
        payout(1000);
        vm.assertEq(pool.recipientOf(payee), address(0), "recipient");
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NoRecipient.selector, payee));
        pool.claim(payee, claimOf(tree().tickets[0], 0));
        IDistributor.PayeeClaim[] memory many = new IDistributor.PayeeClaim[](1);
        many[0] = IDistributor.PayeeClaim(payee, 0, 1, new bytes32[](0));
        (uint256 paid,) = pool.claimMany(0, many);
        vm.assertEq(paid, 0, "skipped");
    }

    /// @dev The committed tree may be any that a malicious builder can make; all its tickets and forgeries are tried.
    function testFuzz_noTreeAtAllPaysMoreThanItsPayout(uint256 seed, uint128 amount, bool byRelayer) external {
        Trees.Tree memory made = Trees.malicious(payees, seed);
        vm.assume(SumTree.sumOf(made.root()) > 0);
        uint256 total = bound(amount, 1, type(uint128).max - 1000);
        vm.deal(address(this), total);
        pool.fund{value: total}(made.root(), MANIFEST);
        reward(1000); // money of others, which must not be touched
        pool.sync();
        for (uint256 i = 0; i < 2 * made.ticketCount; ++i) {
            Trees.Ticket memory ticket = made.tickets[i / 2];
            if (i % 2 == 1) ticket = Trees.mutated(ticket, draw(seed ^ i, "mutation"));
            if (byRelayer) {
                IDistributor.PayeeClaim[] memory many = new IDistributor.PayeeClaim[](2);
                many[0] = IDistributor.PayeeClaim(ticket.payee, ticket.index, ticket.weight, ticket.proof);
                many[1] = many[0];
                pool.claimMany(0, many);
            } else {
                try pool.claim(ticket.payee, claimOf(ticket, 0)) {} catch {}
            }
            vm.assertLe(1000, address(pool).balance, "a payout paid more than its amount");
            vm.assertEq(pool.totalAccounted(), address(pool).balance, "accounted");
        }
    }

    function testFuzz_aRelayersBatchPaysWhatItCanAndSkipsTheRest(uint256 seed, uint96 amount) external {
        uint256 whole = bound(amount, 1, type(uint96).max);
        payout(whole);
        uint256 count = seed % 9;
        IDistributor.PayeeClaim[] memory claims = new IDistributor.PayeeClaim[](count);
        uint256 expected = 0;
        uint256 expectedCount = 0;
        bool[3] memory isTaken;
        for (uint256 i = 0; i < count; ++i) {
            uint256 who = (draw(seed, "who") >> 8 * i) % 3;
            Trees.Ticket memory ticket = tree().tickets[who];
            bool isForged = (draw(seed, "forged") >> i) & 3 == 0;
            claims[i] = IDistributor.PayeeClaim(ticket.payee, ticket.index, ticket.weight, ticket.proof);
            if (isForged) ++claims[i].weight;
            if (isForged || isTaken[who]) continue;
            isTaken[who] = true;
            expected += whole * weights[who] / 10;
            ++expectedCount;
        }
        vm.prank(stranger);
        (uint256 paid, uint256 total) = pool.claimMany(0, claims);
        vm.assertEq(paid, expectedCount, "paid");
        vm.assertEq(total, expected, "amount");
    }

    /* THE FEE */

    function testFuzz_theFeeIsItsPartRoundedDownAndGoesToItsRecipientOnly(uint128 amount, uint16 bps, address caller)
        external
    {
        Distributor.Settings memory terms = settings();
        terms.feeBps = uint16(bound(bps, 0, 500));
        pool = make(terms);
        uint256 total = bound(amount, 1, type(uint128).max);
        payout(total);
        uint256 fee = total * terms.feeBps / 10_000;
        vm.assertEq(uint256(pool.payout(0).amount), total - fee, "amount");
        vm.assertEq(pool.feeOwed(), fee, "fee");
        vm.assertEq(pool.totalAccounted(), total, "accounted");
        vm.prank(caller);
        if (fee == 0) vm.expectRevert(abi.encodeWithSelector(IDistributor.NothingOwed.selector, feeRecipient));
        pool.withdrawFee();
        vm.assertEq(feeRecipient.balance, fee, "received");
        vm.assertEq(pool.feeOwed(), 0, "no fee left");
        vm.assertEq(address(pool).balance, pool.totalAccounted(), "accounted");
    }

    function test_aFeeRecipientThatRefusesKeepsItsFee() external {
        Distributor.Settings memory terms = settings();
        terms.feeBps = 500;
        pool = make(terms);
        payout(1000);
        vm.etch(feeRecipient, hex"5f5ffd");
        vm.expectRevert(abi.encodeWithSelector(IDistributor.SendFailed.selector, feeRecipient));
        pool.withdrawFee();
        vm.assertEq(pool.feeOwed(), 50, "kept");
    }

    function testFuzz_theFeeOnlyFalls(uint16 start, uint16[8] memory wishes, address caller) external {
        Distributor.Settings memory terms = settings();
        terms.feeBps = uint16(bound(start, 0, 500));
        pool = make(terms);
        vm.assume(caller != operator);
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NotOperator.selector, caller));
        pool.lowerFee(0);
        uint16 current = terms.feeBps;
        for (uint256 i = 0; i < wishes.length; ++i) {
            uint16 wish = i % 2 == 0 ? wishes[i] % 600 : wishes[i];
            vm.prank(operator);
            if (wish >= current) {
                vm.expectRevert(abi.encodeWithSelector(IDistributor.FeeNotLower.selector, current, wish));
            }
            pool.lowerFee(wish);
            if (wish < current) current = wish;
            vm.assertEq(uint256(pool.feeBps()), current, "fee");
        }
    }

    /* OWED */

    function testFuzz_whatIsRefusedIsOwedUntilItIsTaken(uint128 amount, uint256 mood, address to) external {
        vm.assume(to.code.length == 0 && uint160(to) > 0xffff && to != address(pool));
        Troublemaker recipient = new Troublemaker(address(pool), IERC20(address(0)));
        payees = [bytes21(uint168(uint160(address(recipient))))];
        weights = [1];
        pool = make(settings());
        uint256 total = bound(amount, 1, type(uint128).max);
        payout(total);
        recipient.behave(Troublemaker.Mood(1 + mood % 3), "");
        pool.claim(payees[0], claimOf(tree().tickets[0], 0));
        vm.assertEq(pool.owed(address(recipient)), total, "owed");
        vm.assertEq(pool.totalAccounted(), total, "accounted");
        vm.expectRevert(abi.encodeWithSelector(IDistributor.AlreadyClaimed.selector, payees[0], 0));
        pool.claim(payees[0], claimOf(tree().tickets[0], 0));

        vm.expectRevert(abi.encodeWithSelector(IDistributor.SendFailed.selector, address(recipient)));
        pool.sendOwed{gas: 1_000_000}(address(recipient));
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NothingOwed.selector, stranger));
        pool.sendOwed(stranger);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NothingOwed.selector, stranger));
        pool.withdrawOwed(to);
        vm.prank(address(recipient));
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidRecipient.selector, address(0)));
        pool.withdrawOwed(address(0));
        vm.prank(address(recipient));
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidRecipient.selector, address(pool)));
        pool.withdrawOwed(address(pool));

        uint256 before = to.balance;
        vm.prank(address(recipient));
        vm.assertEq(pool.withdrawOwed(to), total, "withdrawn");
        vm.assertEq(to.balance - before, total, "received");
        vm.assertEq(pool.totalAccounted(), 0, "accounted");
    }

    /// @dev The caller's gas decides whether a claim reverts, never whether it pays or owes. Each payout is claimed
    ///      with a little more than the one before.
    function testFuzz_noChoiceOfGasTurnsAPaymentIntoADebt(uint256 offset) external {
        Troublemaker recipient = new Troublemaker(address(pool), IERC20(address(0)));
        payees = [bytes21(uint168(uint160(address(recipient))))];
        weights = [1];
        vm.prank(operator);
        pool.commit(tree().root(), MANIFEST);
        recipient.behave(Troublemaker.Mood.Picky, "");
        uint256 paid = 0;
        for (uint256 id = 0; id < 100; ++id) {
            payout(1000);
            uint256 gas = 30_000 + id * 1_500 + offset % 1_500;
            try pool.claim{gas: gas}(payees[0], claimOf(tree().tickets[0], id)) {
                paid += 1000;
            } catch {
                vm.assertFalse(pool.isClaimed(payees[0], id), "nothing happened");
            }
            vm.assertEq(address(recipient).balance, paid, "paid");
            vm.assertEq(pool.owed(address(recipient)), 0, "a debt");
        }
        vm.assertTrue(paid > 0 && paid < 100_000, "with little gas it reverts, with enough it pays");
    }

    function testFuzz_aCallFromInsideAPaymentIsTurnedAway(uint256 which) external {
        Troublemaker recipient = new Troublemaker(address(pool), IERC20(address(0)));
        payees = [bytes21(uint168(uint160(address(recipient))))];
        weights = [1];
        vm.prank(operator);
        pool.commit(tree().root(), MANIFEST);
        payout(1000);
        payout(1000);
        bytes[6] memory calls = [
            abi.encodeCall(pool.claim, (payees[0], claimOf(tree().tickets[0], 1))),
            abi.encodeCall(pool.claimMany, (0, new IDistributor.PayeeClaim[](0))),
            abi.encodeCall(pool.sync, ()),
            abi.encodeCall(pool.fund, (tree().root(), MANIFEST)),
            abi.encodeCall(pool.sendOwed, (stranger)),
            abi.encodeCall(pool.withdrawFee, ())
        ];
        recipient.behave(Troublemaker.Mood.CallBack, calls[which % calls.length]);
        pool.claim(payees[0], claimOf(tree().tickets[0], 0));
        vm.assertEq(recipient.intrusions(), 0, "intrusions");
        vm.assertEq(address(recipient).balance, 1000, "paid once");
        vm.assertFalse(pool.isClaimed(payees[0], 1), "the second payout");
    }

    /* RECIPIENTS */

    function testFuzz_anAccountSetsItsOwnRecipientAndNobodyElses(address account, address recipient) external {
        bytes21 payee = bytes21(uint168(uint160(account)));
        vm.prank(account);
        if (recipient == address(pool)) return;
        pool.setRecipient(recipient);
        vm.assertEq(pool.recipientOf(payee), recipient == address(0) ? account : recipient, "recipient");
        vm.assertEq(pool.nonceOf(payee), 1, "nonce");
        vm.assertEq(pool.recipientOf(payee ^ bytes21(uint168(1))), accountOf(payee ^ bytes21(uint168(1))), "neighbour");
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidRecipient.selector, address(pool)));
        pool.setRecipient(address(pool));
    }

    function testFuzz_aSignatureSetsTheRecipientOnceUntilItsDeadline(
        uint256 key,
        address recipient,
        uint256 deadline,
        uint256 now_,
        uint256 earlierChanges
    ) external {
        wallet = vm.createWallet(bound(key, 1, 2 ** 250));
        vm.assume(recipient != address(pool));
        vm.warp(bound(now_, 1, 2 ** 40));
        deadline = bound(deadline, block.timestamp - 1, block.timestamp + 3);
        uint256 nonce = earlierChanges % 3;
        for (uint256 i = 0; i < nonce; ++i) {
            vm.prank(wallet.addr);
            pool.setRecipient(home);
        }
        bytes memory signature = accountSignature(
            wallet, recipientDigest(address(pool), wallet.addr, recipient, nonce, deadline)
        );
        bytes21 payee = bytes21(uint168(uint160(wallet.addr)));
        if (block.timestamp > deadline) {
            vm.expectRevert(abi.encodeWithSelector(IDistributor.Expired.selector, deadline));
            pool.setRecipientBySig(wallet.addr, recipient, deadline, signature);
            return;
        }
        vm.prank(stranger);
        pool.setRecipientBySig(wallet.addr, recipient, deadline, signature);
        vm.assertEq(pool.recipientOf(payee), recipient == address(0) ? wallet.addr : recipient, "recipient");
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidSignature.selector, wallet.addr));
        pool.setRecipientBySig(wallet.addr, recipient, deadline, signature);
    }

    function testFuzz_aSignatureOfAnythingElseIsRefused(uint256 part, uint256 other) external {
        uint256 nonce = part % 6 == 0 ? bound(other, 1, NEVER) : 0;
        uint256 deadline = part % 6 == 1 ? bound(other, 0, NEVER - 1) : NEVER;
        address account = part % 6 == 2 ? address(uint160(other)) : wallet.addr;
        address recipient = part % 6 == 3 ? address(uint160(other)) : home;
        address contract_ = part % 6 == 4 ? address(uint160(other)) : address(pool);
        vm.assume(account != wallet.addr || part % 6 != 2);
        vm.assume(recipient != home || part % 6 != 3);
        vm.assume(contract_ != address(pool) || part % 6 != 4);
        uint256 chain = block.chainid;
        if (part % 6 == 5) vm.chainId(bound(other, 1, 2 ** 63));
        vm.assume(part % 6 != 5 || chain != block.chainid);
        bytes32 digest = recipientDigest(contract_, account, recipient, nonce, deadline);
        if (part % 6 == 5) vm.chainId(chain);
        bytes memory signature = accountSignature(wallet, digest);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidSignature.selector, wallet.addr));
        pool.setRecipientBySig(wallet.addr, home, NEVER, signature);
    }

    function testFuzz_noBytesAreASignatureByAccident(address account, address recipient, bytes calldata signature)
        external
    {
        vm.assume(account != address(pool) && uint160(account) > 0xffff);
        vm.assume(account != address(vm) && account != address(this));
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidSignature.selector, account));
        pool.setRecipientBySig(account, recipient, NEVER, signature);
    }

    function testFuzz_aBitcoinKeyLinksItsPayeesOnceUntilTheDeadline(
        uint256 key,
        uint8 form_,
        address recipient,
        uint256 deadline
    ) external {
        wallet = vm.createWallet(bound(key, 1, 2 ** 250));
        vm.assume(recipient != address(pool) && recipient != address(0));
        vm.warp(1_000_000);
        deadline = bound(deadline, block.timestamp - 1, block.timestamp + 1);
        Form form = Form(form_ % 4);
        bytes21 payee = bitcoinPayee(wallet, form);
        string memory message = pool.linkMessage(payee, recipient, deadline);
        BitcoinKeys.Signature memory signature = bitcoinSignature(wallet, form, message);
        if (block.timestamp > deadline) {
            vm.expectRevert(abi.encodeWithSelector(IDistributor.Expired.selector, deadline));
            pool.linkBitcoinKey(payee, recipient, deadline, signature);
            return;
        }
        pool.linkBitcoinKey(payee, recipient, deadline, signature);
        vm.assertEq(pool.recipientOf(payee), recipient, "recipient");
        vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        pool.linkBitcoinKey(payee, recipient, deadline, signature);
    }

    function testFuzz_aLinkToNowhereOrOfNoBitcoinPayeeIsRefused(uint8 kind, uint160 id) external {
        bytes21 payee = bytes21(uint168(uint256(kind) << 160 | id));
        BitcoinKeys.Signature memory signature = bitcoinSignature(wallet, Form.Segwit, "anything");
        if (kind != 1 && kind != 2) {
            vm.expectRevert(abi.encodeWithSelector(IDistributor.NotABitcoinPayee.selector, payee));
            pool.linkBitcoinKey(payee, home, NEVER, signature);
        }
        payee = bitcoinPayee(wallet, Form.Segwit);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidRecipient.selector, address(0)));
        pool.linkBitcoinKey(payee, address(0), NEVER, signature);
        signature = bitcoinSignature(wallet, Form.Segwit, pool.linkMessage(payee, address(pool), NEVER));
        vm.expectRevert(abi.encodeWithSelector(IDistributor.InvalidRecipient.selector, address(pool)));
        pool.linkBitcoinKey(payee, address(pool), NEVER, signature);
    }

    function testFuzz_aLinkOfAnotherNonceChainOrContractIsRefused(uint64 chain) external {
        bytes21 payee = bitcoinPayee(wallet, Form.Segwit);
        string memory message = pool.linkMessage(payee, home, NEVER);
        BitcoinKeys.Signature memory signature = bitcoinSignature(wallet, Form.Segwit, message);
        NativeDistributor other = make(settings());
        vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        other.linkBitcoinKey(payee, home, NEVER, signature);
        uint256 here = block.chainid;
        vm.assume(chain != here && chain > 0 && chain < 2 ** 63);
        vm.chainId(chain);
        vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        pool.linkBitcoinKey(payee, home, NEVER, signature);
        vm.chainId(here);
        pool.linkBitcoinKey(payee, home, NEVER, signature);
    }

    /* THE OPERATOR */

    function testFuzz_theOperatorHandsOverInTwoSteps(address next, address caller) external {
        vm.assume(caller != operator && caller != next && caller != address(0));
        vm.assume(next != operator && next != address(0));
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NotOperator.selector, caller));
        pool.proposeOperator(caller);
        vm.prank(operator);
        pool.proposeOperator(next);
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NotProposedOperator.selector, caller));
        pool.acceptOperator();
        vm.assertEq(pool.operator(), operator, "not yet");
        vm.prank(next);
        pool.acceptOperator();
        vm.assertEq(pool.operator(), next, "now");
        vm.assertEq(pool.proposedOperator(), address(0), "done");
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.NotOperator.selector, operator));
        pool.lowerFee(0);
    }

    function testFuzz_aPlainTransferOfAnyAmountWaits(uint256 amount) external {
        vm.deal(stranger, amount);
        vm.prank(stranger);
        (bool sent,) = address(pool).call{value: amount}("");
        vm.assertTrue(sent, "sent");
        vm.assertEq(pool.payoutCount(), 0, "payouts");
        vm.assertEq(pool.totalAccounted(), 0, "accounted");
    }

    /// @dev There is no other way in: unknown calls are refused, with or without money. With less than one word behind
    ///      the selector, no call that takes arguments is a known one.
    function testFuzz_aCallThatDoesNotExistIsRefused(bytes4 selector, bytes16 rest, uint64 value) external {
        (bool isView,) = address(pool).staticcall(abi.encodePacked(selector, rest));
        vm.assume(!isView && selector != pool.sync.selector && selector != pool.withdrawFee.selector);
        vm.deal(address(this), value);
        (bool done,) = address(pool).call{value: value}(abi.encodePacked(selector, rest));
        vm.assertFalse(done, "a call that does not exist");
    }
}

/// @title ManyPayoutsTest
/// @notice Claims across the words of claimed bits: 300 payouts of one root.
contract ManyPayoutsTest is DistributorFixture {
    using Trees for Trees.Tree;

    function setUp() public override {
        super.setUp();
        vm.deal(address(this), 3000);
        for (uint256 i = 0; i < 300; ++i) {
            pool.fund{value: 10}(tree().root(), MANIFEST);
        }
    }

    function testFuzz_aClaimOfAnyPayoutsIsPaidOnceWhateverTheirOrder(uint256 seed) external {
        uint256 count = 1 + seed % 8;
        Trees.Ticket memory ticket = tree().tickets[0];
        IDistributor.Claim[] memory claims = new IDistributor.Claim[](count);
        uint256[2] memory words;
        uint256 twice = NEVER;
        for (uint256 i = 0; i < count; ++i) {
            uint256 id = (draw(seed, "id") >> 24 * i) % 12 + (draw(seed, "word") >> i & 1) * 250;
            claims[i] = IDistributor.Claim(id, ticket.index, ticket.weight, ticket.proof);
            uint256 bit = 1 << id % 256;
            if (words[id / 256] & bit != 0 && twice == NEVER) twice = id;
            words[id / 256] |= bit;
        }
        if (twice != NEVER) {
            vm.expectRevert(abi.encodeWithSelector(IDistributor.AlreadyClaimed.selector, payees[0], twice));
            pool.claim(payees[0], claims);
            return;
        }
        vm.assertEq(pool.claim(payees[0], claims), 5 * count, "five each");
        vm.assertEq(pool.claimedWord(payees[0], 0), words[0], "the first word");
        vm.assertEq(pool.claimedWord(payees[0], 1), words[1], "the second word");
        vm.assertEq(accountOf(payees[0]).balance, 5 * count, "received");
        vm.expectRevert(abi.encodeWithSelector(IDistributor.AlreadyClaimed.selector, payees[0], claims[0].payoutId));
        pool.claim(payees[0], claims);
    }
}
