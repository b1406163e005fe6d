// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @title TestRecipient
/// @notice FOR TESTS ONLY. A recipient that uses as much gas as it is told to, or calls somebody back when it is paid,
///         and an ERC-1271 wallet that approves the digests it is told to.
contract TestRecipient is IERC1271 {
    uint256 public gasToUse;
    address public target;
    bytes public data;
    bytes4 public answer;
    mapping(bytes32 digest => bool) public isApproved;

    /// @notice From now on, using `amount` of gas is what receiving money takes.
    function useGas(uint256 amount) external {
        gasToUse = amount;
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
        uint256 start = gasleft();
        while (start - gasleft() < gasToUse) {}
        if (target != address(0)) {
            (, bytes memory returned) = target.call(data);
            answer = bytes4(returned);
        }
    }
}
