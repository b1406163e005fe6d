// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @title TestRecipient
/// @notice FOR TESTS ONLY. A recipient that wants as much gas as it is told to, or calls somebody back when it is paid,
///         and an ERC-1271 wallet that approves the digests it is told to.
contract TestRecipient is IERC1271 {
    uint256 public gasWanted;
    address public target;
    bytes public data;
    bytes4 public answer;
    mapping(bytes32 digest => bool) public isApproved;

    error TooLittleGas(uint256 left);

    /// @notice From now on, money that comes with less gas than `amount` is refused, without using that gas up.
    function wantGas(uint256 amount) external {
        gasWanted = amount;
    }

    /// @notice From now on, each payment makes it call `target_` with `data_` and keep the first four bytes of
    ///         the answer, which name the error where there is one.
    function callBack(address target_, bytes calldata data_) external {
        target = target_;
        data = data_;
    }

    function approve(bytes32 digest) external {
        isApproved[digest] = true;
    }

    function isValidSignature(bytes32 digest, bytes calldata) external view returns (bytes4) {
        return isApproved[digest] ? IERC1271.isValidSignature.selector : bytes4(0);
    }

    receive() external payable {
        if (gasleft() < gasWanted) revert TooLittleGas(gasleft());
        if (target != address(0)) {
            (, bytes memory returned) = target.call(data);
            answer = bytes4(returned);
        }
    }
}
