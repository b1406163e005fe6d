// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IBridge} from "../../../contracts/interfaces/IBridge.sol";
import {IFlyoverRoute} from "../../../contracts/interfaces/IFlyoverRoute.sol";
import {IDistributor} from "../../../contracts/interfaces/IDistributor.sol";
import {INativeDistributor} from "../../../contracts/interfaces/INativeDistributor.sol";
import {FlyoverRoute} from "../../../contracts/routes/FlyoverRoute.sol";
import {SumTree} from "../../../contracts/libraries/SumTree.sol";
import {DistributorFixture} from "./base/DistributorFixture.sol";

/// @dev A bridge that answers and pays what it is told, and keeps what it was asked. Whatever is no call of its own is
///      taken for a registration, because decoding its eight arguments is more than the unoptimized compiler can do.
contract ScriptedBridge {
    int256 public answer;
    uint256 public pays;
    bytes32 public asked;
    bytes public getActivePowpegRedeemScript = hex"5221aa5221bb52ae";

    function script(int256 answer_, uint256 pays_) external {
        (answer, pays) = (answer_, pays_);
    }

    fallback(bytes calldata data) external returns (bytes memory) {
        asked = keccak256(data);
        (bool sent,) = msg.sender.call{value: pays}("");
        return abi.encode(sent ? answer : int256(-900));
    }
}

/// @title FlyoverRouteTest
/// @notice The route with a bridge that says and does anything.
contract FlyoverRouteTest is DistributorFixture {
    bytes21 private constant USER = bytes21(hex"6f0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a");
    bytes21 private constant PROVIDER = bytes21(hex"6f0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b");

    ScriptedBridge private bridge;
    FlyoverRoute private route;

    function setUp() public override {
        super.setUp();
        bridge = new ScriptedBridge();
        route = new FlyoverRoute(IBridge(address(bridge)), pool, USER, PROVIDER);
    }

    function test_aRouteNeedsABridgeAndADistributor() external {
        vm.expectRevert(IFlyoverRoute.ZeroAddress.selector);
        new FlyoverRoute(IBridge(address(0)), pool, USER, PROVIDER);
        vm.expectRevert(IFlyoverRoute.ZeroAddress.selector);
        new FlyoverRoute(IBridge(address(bridge)), INativeDistributor(address(0)), USER, PROVIDER);
        vm.assertEq(address(route.bridge()), address(bridge), "bridge");
        vm.assertEq(address(route.distributor()), address(pool), "distributor");
        vm.assertEq(bytes32(route.userRefund()), bytes32(USER), "user");
        vm.assertEq(bytes32(route.providerRefund()), bytes32(PROVIDER), "provider");
    }

    function testFuzz_theRouteBelievesABridgeOnlyIfTheMoneyCame(int256 answer, uint96 pays, uint96 lying, bool isTrue)
        external
    {
        if (isTrue) answer = int256(uint256(pays));
        vm.deal(address(bridge), pays);
        vm.deal(address(route), lying); // money that lies there from elsewhere is not the bridge's
        bridge.script(answer, pays);
        bool isGood = answer > 0 && uint256(answer) == pays;
        bytes32 root = bytes32(uint256(5));
        try route.register(hex"0102", 7, hex"03", root, MANIFEST) returns (uint256 id) {
            vm.assertTrue(isGood, "a bridge that did not pay what it said");
            IDistributor.Payout memory made = pool.payout(id);
            vm.assertEq(uint256(made.amount), pays, "amount");
            vm.assertEq(made.root, root, "root");
            vm.assertEq(address(route).balance, lying, "the route keeps nothing");
        } catch {
            vm.assertFalse(isGood, "a bridge that paid what it said");
            vm.assertEq(address(route).balance, lying, "a refusal undoes all");
            vm.assertEq(pool.payoutCount(), 0, "payouts");
        }
    }

    function testFuzz_theBridgeIsAskedForTheCommitmentOfTheRoot(
        bytes calldata btcTx,
        uint256 height,
        bytes calldata pmt,
        bytes32 root,
        bytes32 manifest
    ) external {
        root |= bytes32(uint256(1));
        vm.deal(address(bridge), 9);
        bridge.script(9, 9);
        vm.prank(stranger);
        route.register(btcTx, height, pmt, root, manifest);
        bytes32 commitment = keccak256(abi.encode(block.chainid, address(pool), root, manifest));
        bytes32 expected = keccak256(
            abi.encodeCall(
                IBridge.registerFastBridgeBtcTransaction,
                (
                    btcTx,
                    height,
                    pmt,
                    commitment,
                    abi.encodePacked(USER),
                    payable(address(route)),
                    abi.encodePacked(PROVIDER),
                    true
                )
            )
        );
        vm.assertEq(bridge.asked(), expected, "what the bridge was asked");
        vm.assertEq(route.commitmentOf(root, manifest), commitment, "the commitment");
    }

    function test_eachAnswerOfTheBridgeHasItsName() external {
        _refused(-100, abi.encodeWithSelector(IFlyoverRoute.BridgeRefundsUser.selector));
        _refused(-200, abi.encodeWithSelector(IFlyoverRoute.BridgeRefundsProvider.selector));
        _refused(-300, abi.encodeWithSelector(IFlyoverRoute.BridgeCallerNotContract.selector));
        _refused(-301, abi.encodeWithSelector(IFlyoverRoute.BridgeWrongSender.selector));
        _refused(-302, abi.encodeWithSelector(IFlyoverRoute.BridgeAlreadyProcessed.selector));
        _refused(-303, abi.encodeWithSelector(IFlyoverRoute.BridgeInvalidTransaction.selector));
        _refused(-304, abi.encodeWithSelector(IFlyoverRoute.BridgeNothingPaid.selector));
        _refused(-305, abi.encodeWithSelector(IFlyoverRoute.BridgeBelowMinimum.selector));
        _refused(-900, abi.encodeWithSelector(IFlyoverRoute.BridgeFailed.selector, int256(-900)));
        _refused(0, abi.encodeWithSelector(IFlyoverRoute.BridgeFailed.selector, int256(0)));
        _refused(3, abi.encodeWithSelector(IFlyoverRoute.BridgeAmountMismatch.selector, 3, 0));
    }

    function testFuzz_onlyTheBridgePaysTheRoute(address payer, uint96 amount) external {
        vm.assume(payer != address(bridge));
        vm.deal(payer, amount);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IFlyoverRoute.OnlyBridge.selector, payer));
        (bool sent,) = address(route).call{value: amount}("");
        sent;
    }

    function testFuzz_derivationsAreHashesOfTheDocumentedLayout(bytes32 commitment) external view {
        bytes32 derivation = keccak256(abi.encodePacked(commitment, USER, address(route), PROVIDER));
        vm.assertEq(route.derivationHash(commitment), derivation, "derivation");
        bytes memory redeem = abi.encodePacked(hex"20", derivation, hex"75", bridge.getActivePowpegRedeemScript());
        (bytes20 p2sh, bytes20 nested) = route.depositScriptHashes(commitment);
        vm.assertEq(bytes32(p2sh), bytes32(ripemd160(abi.encodePacked(sha256(redeem)))), "p2sh");
        bytes memory program = abi.encodePacked(hex"0020", sha256(redeem));
        vm.assertEq(bytes32(nested), bytes32(ripemd160(abi.encodePacked(sha256(program)))), "p2sh-p2wsh");
    }

    function testFuzz_aRootWithoutWeightLeavesTheRewardAtTheBridge(bytes32 root, uint96 pays) external {
        root &= ~bytes32(uint256(type(uint64).max));
        uint256 amount = bound(pays, 1, type(uint96).max);
        vm.deal(address(bridge), amount);
        bridge.script(int256(amount), amount);
        vm.expectRevert(abi.encodeWithSelector(IDistributor.ZeroRootSum.selector, root));
        route.register("", 0, "", root, MANIFEST);
        vm.assertEq(address(bridge).balance, amount, "still there");
        vm.assertEq(SumTree.sumOf(root), 0, "no weight");
    }

    function _refused(int256 answer, bytes memory reason) private {
        bridge.script(answer, 0);
        vm.expectRevert(reason);
        route.register("", 0, "", bytes32(uint256(1)), MANIFEST);
    }
}
