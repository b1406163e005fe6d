// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IBridge} from "../interfaces/IBridge.sol";
import {IFlyoverRoute} from "../interfaces/IFlyoverRoute.sol";
import {INativeDistributor} from "../interfaces/INativeDistributor.sol";

/// @title FlyoverRoute
/// @notice See IFlyoverRoute. Holds nothing: what the bridge pays goes on to the distributor in the same call.
contract FlyoverRoute is IFlyoverRoute {
    /// @inheritdoc IFlyoverRoute
    IBridge public immutable bridge;
    /// @inheritdoc IFlyoverRoute
    INativeDistributor public immutable distributor;
    /// @inheritdoc IFlyoverRoute
    bytes21 public immutable userRefund;
    /// @inheritdoc IFlyoverRoute
    bytes21 public immutable providerRefund;

    constructor(IBridge bridge_, INativeDistributor distributor_, bytes21 userRefund_, bytes21 providerRefund_) {
        if (address(bridge_) == address(0) || address(distributor_) == address(0)) revert ZeroAddress();
        bridge = bridge_;
        distributor = distributor_;
        userRefund = userRefund_;
        providerRefund = providerRefund_;
    }

    /// @notice Only the bridge pays this contract.
    receive() external payable {
        if (msg.sender != address(bridge)) revert OnlyBridge(msg.sender);
    }

    /// @inheritdoc IFlyoverRoute
    function register(bytes calldata btcTx, uint256 height, bytes calldata pmt, bytes32 root, bytes32 manifestHash)
        external
        returns (uint256 payoutId)
    {
        bytes32 commitment = commitmentOf(root, manifestHash);
        uint256 before = address(this).balance;
        int256 result = bridge.registerFastBridgeBtcTransaction(
            btcTx,
            height,
            pmt,
            commitment,
            abi.encodePacked(userRefund),
            payable(address(this)),
            abi.encodePacked(providerRefund),
            true
        );
        // A revert also undoes a refund that the bridge may have made: the reward stays registrable.
        if (result <= 0) _revertWith(result);
        // forge-lint: disable-next-line(unsafe-typecast) positive after the line above
        uint256 amount = uint256(result);
        uint256 came = address(this).balance - before;
        if (came != amount) revert BridgeAmountMismatch(amount, came);
        payoutId = distributor.fund{value: amount}(root, manifestHash);
        bytes32 txid = sha256(abi.encodePacked(sha256(btcTx)));
        emit Registered(txid, commitment, payoutId, root, manifestHash, amount);
    }

    /// @inheritdoc IFlyoverRoute
    function commitmentOf(bytes32 root, bytes32 manifestHash) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, distributor, root, manifestHash));
    }

    /// @inheritdoc IFlyoverRoute
    function derivationHash(bytes32 commitment) public view returns (bytes32) {
        return keccak256(abi.encodePacked(commitment, userRefund, address(this), providerRefund));
    }

    /// @inheritdoc IFlyoverRoute
    function depositScriptHashes(bytes32 commitment) external view returns (bytes20 p2sh, bytes20 p2shP2wsh) {
        bytes memory redeem = abi.encodePacked(
            bytes1(0x20), derivationHash(commitment), bytes1(0x75), bridge.getActivePowpegRedeemScript()
        );
        bytes32 redeemHash = sha256(redeem);
        p2sh = ripemd160(abi.encodePacked(redeemHash));
        p2shP2wsh = ripemd160(abi.encodePacked(sha256(abi.encodePacked(bytes2(0x0020), redeemHash))));
    }

    function _revertWith(int256 code) private pure {
        if (code == -100) revert BridgeRefundsUser();
        if (code == -200) revert BridgeRefundsProvider();
        if (code == -300) revert BridgeCallerNotContract();
        if (code == -301) revert BridgeWrongSender();
        if (code == -302) revert BridgeAlreadyProcessed();
        if (code == -303) revert BridgeInvalidTransaction();
        if (code == -304) revert BridgeNothingPaid();
        if (code == -305) revert BridgeBelowMinimum();
        revert BridgeFailed(code);
    }
}
