// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Distributor} from "../../../contracts/Distributor.sol";
import {IDistributor} from "../../../contracts/interfaces/IDistributor.sol";
import {TokenDistributor} from "../../../contracts/TokenDistributor.sol";
import {TestToken} from "../../../contracts/mocks/TestTokens.sol";
import {SumTree} from "../../../contracts/libraries/SumTree.sol";
import {TestBase} from "./base/TestBase.sol";
import {Trees} from "./base/Trees.sol";
import {Troublemaker} from "./base/Troublemaker.sol";

/// @title TokenDistributorTest
/// @notice The distributor of a token: tokens that behave, and tokens that do not.
contract TokenDistributorTest is TestBase {
    using Trees for Trees.Tree;

    bytes32 private constant MANIFEST = bytes32(uint256(0x3a));

    TestToken private token;
    TokenDistributor private pool;
    Troublemaker private hooked; // the second miner
    bytes21[] private payees;
    uint64[] private weights = [5, 3, 2];

    function setUp() external {
        token = new TestToken();
        // The distributor's address is known before it is made, so that a payee of its genesis tree can know it.
        address expected = address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", address(this), hex"03")))));
        hooked = new Troublemaker(expected, token);
        payees = [
            bytes21(uint168(0x1001)),
            bytes21(uint168(0x1002)),
            bytes21(uint168(uint160(address(hooked))))
        ];
        pool = new TokenDistributor(settings(), token);
        vm.assertEq(address(pool), expected, "the distributor's address");
    }

    function settings() private view returns (Distributor.Settings memory) {
        return Distributor.Settings(person("operator"), person("fee"), 0, 500, 0, 0, tree().root(), MANIFEST);
    }

    function tree() private view returns (Trees.Tree memory) {
        return Trees.honest(payees, weights);
    }

    /* HOW A TOKEN COMES IN */

    function test_aTokenNeedsCode() external {
        vm.expectRevert(IDistributor.ZeroAddress.selector);
        new TokenDistributor(settings(), IERC20(person("nobody")));
        vm.assertEq(address(pool.token()), address(token), "the token");
    }

    function testFuzz_tokensThatArriveWaitForSync(uint128 first, uint128 second, uint8 manner) external {
        token.setManner(TestToken.Manner(manner % 8));
        second >>= 1;
        uint256 amount = bound(first, 1, type(uint128).max >> 1);
        token.mint(address(pool), amount);
        pool.sync();
        vm.assertEq(uint256(pool.payout(0).amount), amount, "recorded");
        token.mint(address(pool), second);
        pool.sync();
        vm.assertEq(pool.payoutCount(), second > 0 ? 2 : 1, "payouts");
        vm.assertEq(pool.totalAccounted(), amount + second, "accounted");
    }

    function testFuzz_fundingCreditsWhatReallyArrived(bytes32 root, uint256 amount, uint8 manner_, uint96 waiting)
        external
    {
        TestToken.Manner manner = TestToken.Manner(manner_ % 8);
        token.setManner(manner);
        token.mint(address(pool), waiting);
        amount = bound(amount, 0, uint256(type(uint128).max) * 2);
        token.mint(address(this), amount);
        token.approve(address(pool), amount);
        uint256 arrives = manner == TestToken.Manner.Charging ? amount - amount / 100 : amount;
        bool isGood = SumTree.sumOf(root) > 0 && arrives > 0 && arrives <= type(uint128).max && _moves(manner);
        try pool.fund(root, MANIFEST, amount) returns (uint256 id) {
            vm.assertTrue(isGood, "a bad fund");
            vm.assertEq(uint256(pool.payout(id).amount), arrives, "what arrived");
            vm.assertEq(pool.payout(id).root, root, "root");
            vm.assertEq(uint256(pool.payout(id).epoch), pool.NO_EPOCH(), "epoch");
            vm.assertEq(pool.totalAccounted(), arrives, "what waits, waits");
        } catch {
            vm.assertFalse(isGood, "a good fund");
            vm.assertEq(token.balanceOf(address(this)), amount, "a fund that fails takes nothing");
        }
    }

    function test_eachReasonNotToFundIsNamed() external {
        bytes32 root = tree().root();
        vm.expectRevert(abi.encodeWithSelector(IDistributor.ZeroRootSum.selector, bytes32(0)));
        pool.fund(0, MANIFEST, 1);
        vm.expectRevert(IDistributor.NothingFunded.selector);
        pool.fund(root, MANIFEST, 0);
        TestToken.Manner[3] memory liars =
            [TestToken.Manner.Failing, TestToken.Manner.Garbled, TestToken.Manner.Odd];
        for (uint256 i = 0; i < liars.length; ++i) {
            token.setManner(liars[i]);
            vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(token)));
            pool.fund(root, MANIFEST, 1);
        }
    }

    function test_onlyWhatWasAllowedIsTaken() external {
        token.mint(address(this), 100);
        token.approve(address(pool), 99);
        bytes32 root = tree().root();
        (bool done,) = address(pool).call(abi.encodeCall(pool.fund, (root, MANIFEST, 100)));
        vm.assertFalse(done, "more than was allowed");
        pool.fund(root, MANIFEST, 99);
        vm.assertEq(token.balanceOf(address(this)), 1, "the rest stays");
    }

    /// @dev ERC-777: whoever pays is called while the transfer is under way.
    function test_aPayerThatIsCalledBackWhileItFundsIsTurnedAway() external {
        bytes32 root = tree().root();
        token.mint(address(pool), 1000);
        token.mint(address(hooked), 100);
        token.hook(address(hooked), true);
        hooked.behave(Troublemaker.Mood.CallBack, abi.encodeCall(pool.sync, ()));
        vm.prank(address(hooked));
        token.approve(address(pool), 100);
        vm.prank(address(hooked));
        pool.fund(root, MANIFEST, 100);
        vm.assertEq(hooked.intrusions(), 0, "intrusions");
        vm.assertEq(uint256(pool.payout(0).amount), 100, "its own money only");
        vm.assertEq(pool.totalAccounted(), 100, "accounted");
    }

    /* HOW A TOKEN GOES OUT */

    function testFuzz_everyPartReachesItsPayeeWithTokensThatAnswerInTheirOwnWay(uint128 amount, uint8 which) external {
        TestToken.Manner[3] memory good =
            [TestToken.Manner.Standard, TestToken.Manner.Silent, TestToken.Manner.Lengthy];
        uint256 total = bound(amount, 10, type(uint128).max);
        _payout(total);
        token.setManner(good[which % 3]);
        for (uint256 i = 0; i < 3; ++i) {
            uint256 part = total * weights[i] / 10;
            vm.assertEq(_claim(i, 0), part, "claimed");
            vm.assertEq(token.balanceOf(_account(i)), part, "received");
            vm.assertEq(pool.owed(_account(i)), 0, "owed");
        }
        vm.assertEq(token.balanceOf(address(pool)), pool.totalAccounted(), "accounted");
    }

    function test_aTokenThatChargesForTransfersChargesTheRecipient() external {
        token.setManner(TestToken.Manner.Charging);
        _payout(1000);
        _claim(0, 0);
        vm.assertEq(token.balanceOf(_account(0)), 495, "received");
        vm.assertEq(pool.totalAccounted(), 500, "accounted");
        vm.assertEq(token.balanceOf(address(pool)), 500, "balance");
    }

    function testFuzz_whatATokenDoesNotMoveIsOwedAndSentLater(uint128 amount, uint8 which, bool bySelf) external {
        TestToken.Manner[4] memory bad = [
            TestToken.Manner.Failing,
            TestToken.Manner.Garbled,
            TestToken.Manner.Odd,
            TestToken.Manner.LengthyFailure
        ];
        uint256 total = bound(amount, 10, type(uint128).max);
        _payout(total);
        token.setManner(bad[which % 4]);
        uint256 part = _claim(0, 0);
        address miner = _account(0);
        vm.assertEq(pool.owed(miner), part, "owed");
        vm.assertEq(pool.totalAccounted(), total, "accounted");
        vm.expectRevert(abi.encodeWithSelector(IDistributor.SendFailed.selector, miner));
        pool.sendOwed(miner);
        token.setManner(TestToken.Manner.Silent);
        if (bySelf) {
            vm.prank(miner);
            pool.withdrawOwed(miner);
        } else {
            pool.sendOwed(miner);
        }
        vm.assertEq(token.balanceOf(miner), part, "received");
        vm.assertEq(pool.owed(miner), 0, "no longer owed");
        vm.assertEq(token.balanceOf(address(pool)), pool.totalAccounted(), "accounted");
    }

    function test_aBlockedPayeeIsOwedAndHoldsNobodyUp() external {
        token.block_(_account(1), true);
        _payout(1000);
        Trees.Tree memory made = tree();
        IDistributor.PayeeClaim[] memory claims = new IDistributor.PayeeClaim[](3);
        for (uint256 i = 0; i < 3; ++i) {
            Trees.Ticket memory ticket = made.tickets[i];
            claims[i] = IDistributor.PayeeClaim(ticket.payee, ticket.index, ticket.weight, ticket.proof);
        }
        (uint256 paid, uint256 amount) = pool.claimMany(0, claims);
        vm.assertEq(paid, 3, "paid or owed");
        vm.assertEq(amount, 1000, "amount");
        vm.assertEq(token.balanceOf(_account(0)), 500, "the first");
        vm.assertEq(token.balanceOf(_account(2)), 200, "the third");
        vm.assertEq(pool.owed(_account(1)), 300, "the second");
        vm.prank(_account(1));
        pool.withdrawOwed(person("elsewhere"));
        vm.assertEq(token.balanceOf(person("elsewhere")), 300, "taken to where it is not blocked");
    }

    /// @dev 100,000 bytes of answer cost the token what it spends on them; copied, they would cost the caller as much
    ///      again, for each payee.
    function test_aLengthyAnswerCostsTheCallerNothing() external {
        _payout(1000);
        uint256 plain = _gasOfClaim(0);
        token.setManner(TestToken.Manner.Lengthy);
        uint256 lengthy = _gasOfClaim(1);
        vm.assertLe(lengthy, plain + 35_000, "the answer was copied");
        vm.assertEq(token.balanceOf(_account(1)), 300, "received");
    }

    function testFuzz_aPayeeThatIsCalledBackIsPaidOnce(uint256 which) external {
        token.hook(address(hooked), true);
        _payout(1000);
        _payout(1000);
        Trees.Ticket memory ticket = tree().tickets[2];
        bytes[6] memory calls = [
            abi.encodeCall(pool.claim, (payees[2], _claimOf(ticket, 1))),
            abi.encodeCall(pool.claimMany, (1, new IDistributor.PayeeClaim[](0))),
            abi.encodeCall(pool.sync, ()),
            abi.encodeCall(pool.fund, (tree().root(), MANIFEST, 1)),
            abi.encodeCall(pool.withdrawOwed, (person("elsewhere"))),
            abi.encodeCall(pool.withdrawFee, ())
        ];
        hooked.behave(Troublemaker.Mood.CallBack, calls[which % calls.length]);
        vm.assertEq(_claim(2, 0), 200, "paid");
        vm.assertEq(hooked.intrusions(), 0, "intrusions");
        vm.assertEq(token.balanceOf(address(hooked)), 200, "once");
        vm.assertFalse(pool.isClaimed(payees[2], 1), "the second payout");
        vm.assertEq(token.balanceOf(address(pool)), pool.totalAccounted(), "accounted");
    }

    function test_aPayeeThatSendsItsTokensBackMakesThemArriveAgain() external {
        token.hook(address(hooked), true);
        _payout(1000);
        hooked.behave(Troublemaker.Mood.SendBack, "");
        _claim(2, 0);
        vm.assertEq(token.balanceOf(address(pool)), 1000, "balance");
        vm.assertEq(pool.totalAccounted(), 800, "accounted");
        pool.sync();
        vm.assertEq(uint256(pool.payout(1).amount), 200, "arrived again");
    }

    function testFuzz_aPayeeWhoseHookFailsIsOwed(uint8 mood) external {
        token.hook(address(hooked), true);
        _payout(1000);
        hooked.behave(Troublemaker.Mood(1 + mood % 3), "");
        _claim(2, 0);
        vm.assertEq(pool.owed(address(hooked)), 200, "owed");
        vm.assertEq(token.balanceOf(address(pool)), 1000, "balance");
        vm.assertEq(pool.totalAccounted(), 1000, "accounted");
        hooked.behave(Troublemaker.Mood.Accept, "");
        pool.sendOwed(address(hooked));
        vm.assertEq(token.balanceOf(address(hooked)), 200, "received");
    }

    /// @dev As for coins: each payout is claimed with a little more gas than the one before.
    function testFuzz_noChoiceOfGasTurnsAPaymentIntoADebt(uint256 offset) external {
        token.hook(address(hooked), true);
        hooked.behave(Troublemaker.Mood.Picky, "");
        uint256 paid = 0;
        for (uint256 id = 0; id < 100; ++id) {
            _payout(1000);
            uint256 gas = 60_000 + id * 2_500 + offset % 2_500;
            try pool.claim{gas: gas}(payees[2], _claimOf(tree().tickets[2], id)) {
                paid += 200;
            } catch {
                vm.assertFalse(pool.isClaimed(payees[2], id), "nothing happened");
            }
            vm.assertEq(token.balanceOf(address(hooked)), paid, "paid");
            vm.assertEq(pool.owed(address(hooked)), 0, "a debt");
        }
        vm.assertTrue(paid > 0 && paid < 20_000, "with little gas it reverts, with enough it pays");
    }

    function test_theFeeOfATokenGoesToItsRecipient() external {
        Distributor.Settings memory terms = settings();
        terms.feeBps = 500;
        pool = new TokenDistributor(terms, token);
        _payout(1000);
        token.block_(person("fee"), true);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.SendFailed.selector, person("fee")));
        pool.withdrawFee();
        token.block_(person("fee"), false);
        pool.withdrawFee();
        vm.assertEq(token.balanceOf(person("fee")), 50, "fee");
        vm.assertEq(token.balanceOf(address(pool)), pool.totalAccounted(), "accounted");
    }

    function test_coinsAreNotTaken() external {
        vm.deal(address(this), 1);
        (bool sent,) = address(pool).call{value: 1}("");
        vm.assertFalse(sent, "a token's distributor has no use for coins");
    }

    /* HELPERS */

    function _moves(TestToken.Manner manner) private pure returns (bool) {
        return manner == TestToken.Manner.Standard || manner == TestToken.Manner.Silent
            || manner == TestToken.Manner.Lengthy || manner == TestToken.Manner.Charging;
    }

    function _payout(uint256 amount) private {
        token.mint(address(pool), amount);
        pool.sync();
    }

    function _account(uint256 who) private view returns (address) {
        return address(uint160(uint168(payees[who])));
    }

    function _claimOf(Trees.Ticket memory ticket, uint256 id)
        private
        pure
        returns (IDistributor.Claim[] memory claims)
    {
        claims = new IDistributor.Claim[](1);
        claims[0] = IDistributor.Claim(id, ticket.index, ticket.weight, ticket.proof);
    }

    function _claim(uint256 who, uint256 id) private returns (uint256) {
        return pool.claim(payees[who], _claimOf(tree().tickets[who], id));
    }

    function _gasOfClaim(uint256 who) private returns (uint256 used) {
        IDistributor.Claim[] memory claims = _claimOf(tree().tickets[who], 0);
        used = gasleft();
        pool.claim(payees[who], claims);
        used -= gasleft();
    }
}
