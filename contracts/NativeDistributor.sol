// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Distributor} from "./Distributor.sol";
import {INativeDistributor} from "./interfaces/INativeDistributor.sol";
import {SumTree} from "./libraries/SumTree.sol";

/// @title NativeDistributor
/// @notice A Distributor of the chain's own coin: coinbase rewards, plain transfers, and what routes fund.
contract NativeDistributor is Distributor, INativeDistributor {
    /// @dev Enough for the receive function of a proxied wallet, too little to make a batch expensive.
    uint256 private constant SEND_GAS = 50_000;

    constructor(Settings memory settings) Distributor(settings) {}

    /// @notice Plain transfers wait, like coinbase rewards, for `sync` or `commit`.
    receive() external payable {}

    /// @inheritdoc INativeDistributor
    function fund(bytes32 root, bytes32 manifestHash) external payable nonReentrant returns (uint256 payoutId) {
        if (SumTree.sumOf(root) == 0) revert ZeroRootSum(root);
        if (msg.value == 0) revert NothingFunded();
        return _record(root, manifestHash, NO_EPOCH, msg.value);
    }

    function _balance() internal view override returns (uint256) {
        return address(this).balance;
    }

    function _sendGas() internal pure override returns (uint256) {
        return SEND_GAS;
    }

    /// @dev No return data is copied, so that a recipient cannot make the caller pay for a large answer.
    function _send(address to, uint256 amount, uint256 gasCap) internal override returns (bool sent) {
        assembly ("memory-safe") {
            sent := call(gasCap, to, amount, 0, 0, 0, 0)
        }
    }
}
