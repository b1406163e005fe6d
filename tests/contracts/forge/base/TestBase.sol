// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Vm} from "./Vm.sol";

/// @title TestBase
/// @notice What every test contract starts from: the cheat codes, and numbers in a range.
abstract contract TestBase {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// @dev Brings any number into [low, high].
    function bound(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        uint256 size = high - low;
        return size == type(uint256).max ? value : low + value % (size + 1);
    }

    /// @dev An independent number from a seed, one per label.
    function draw(uint256 seed, string memory label) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, label)));
    }

    /// @dev An address that nobody has used.
    function person(string memory name) internal pure returns (address) {
        return address(uint160(uint256(keccak256(bytes(name)))));
    }
}
