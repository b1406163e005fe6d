// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IDistributor} from "./IDistributor.sol";

/// @title ITokenDistributor
/// @notice The call by which routes bring a block's reward as an ERC-20 token.
interface ITokenDistributor is IDistributor {
    /// @notice Takes up to `amount` of the token from the caller and records what arrived as a payout with a root of
    ///         its own. Anyone may pay.
    /// @dev What counts is the balance's change, so that a token that takes a fee on transfers adds up.
    ///
    /// Requirements:
    ///  - the root's sum is not 0;
    ///  - the caller has allowed the amount; something arrives.
    /// @return payoutId The new payout's id.
    function fund(bytes32 root, bytes32 manifestHash, uint256 amount) external returns (uint256 payoutId);

    /// @notice The reward asset.
    function token() external view returns (IERC20);
}
