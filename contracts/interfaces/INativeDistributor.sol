// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IDistributor} from "./IDistributor.sol";

/// @title INativeDistributor
/// @notice The call by which routes bring a block's reward in the chain's own coin.
interface INativeDistributor is IDistributor {
    /// @notice Records the value sent as a payout with a root of its own. Anyone may pay.
    /// @dev The entry for bridge routes, where the block itself fixed the root.
    ///
    /// Requirements:
    ///  - the root's sum is not 0;
    ///  - the value is not 0. `minPayout` does not apply: a reward that is too small here would stay at the bridge.
    /// @return payoutId The new payout's id.
    function fund(bytes32 root, bytes32 manifestHash) external payable returns (uint256 payoutId);
}
