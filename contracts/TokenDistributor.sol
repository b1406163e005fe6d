// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Distributor} from "./Distributor.sol";
import {ITokenDistributor} from "./interfaces/ITokenDistributor.sol";
import {SumTree} from "./libraries/SumTree.sol";

/// @title TokenDistributor
/// @notice A Distributor of an ERC-20 token: plain transfers to it, and what routes fund.
contract TokenDistributor is Distributor, ITokenDistributor {
    using SafeERC20 for IERC20;

    /// @dev A transfer of a token behind a proxy with block lists takes about half of this.
    uint256 private constant SEND_GAS = 150_000;

    /// @inheritdoc ITokenDistributor
    IERC20 public immutable token;

    constructor(Settings memory settings, IERC20 token_) Distributor(settings) {
        if (address(token_).code.length == 0) revert ZeroAddress();
        token = token_;
    }

    /// @inheritdoc ITokenDistributor
    function fund(bytes32 root, bytes32 manifestHash, uint256 amount)
        external
        nonReentrant
        returns (uint256 payoutId)
    {
        if (SumTree.sumOf(root) == 0) revert ZeroRootSum(root);
        uint256 before = _balance();
        token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = _balance() - before;
        if (received == 0) revert NothingFunded();
        return _record(root, manifestHash, NO_EPOCH, received);
    }

    function _balance() internal view override returns (uint256) {
        return token.balanceOf(address(this));
    }

    function _sendGas() internal pure override returns (uint256) {
        return SEND_GAS;
    }

    /// @dev Sent: the call succeeded and returned nothing, or true. At most one word of the answer is copied. That the
    ///      token has code was checked when this contract was made.
    function _send(address to, uint256 amount, uint256 gasCap) internal override returns (bool sent) {
        bytes memory data = abi.encodeCall(IERC20.transfer, (to, amount));
        address asset = address(token);
        assembly ("memory-safe") {
            mstore(0x00, 0)
            sent := call(gasCap, asset, 0, add(data, 0x20), mload(data), 0x00, 0x20)
            if returndatasize() { sent := and(sent, and(gt(returndatasize(), 0x1f), eq(mload(0x00), 1))) }
        }
    }
}
