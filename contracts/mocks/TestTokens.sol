// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title TestToken
/// @notice FOR TESTS ONLY. A token that behaves as it is told: by the standard, or like one of the tokens that do not.
///         Anybody mints. Apart from its manner, it can refuse to pay an account and call accounts that are paid.
contract TestToken is ERC20 {
    /// @dev Standard: returns true. Silent: returns nothing (USDT). Failing, Garbled, Odd: move nothing and return
    ///      false, one byte, or 2. Lengthy: moves and returns true followed by 100,000 bytes. LengthyFailure: reverts
    ///      with 100,000 bytes. Charging: keeps 1 % of each transfer.
    enum Manner {
        Standard,
        Silent,
        Failing,
        Garbled,
        Odd,
        Lengthy,
        LengthyFailure,
        Charging
    }

    uint256 private constant LENGTHY_ANSWER = 100_000;
    address public constant CHARGES = address(0xc4a26e);

    Manner public manner;
    mapping(address account => bool) public isBlocked;
    /// @notice Accounts that are called, with no data, after tokens left or reached them (ERC-777).
    mapping(address account => bool) public isHooked;

    error Blocked(address account);
    error HookFailed(address account);

    constructor() ERC20("Test", "TEST") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function setManner(Manner manner_) external {
        manner = manner_;
    }

    function block_(address account, bool blocked) external {
        isBlocked[account] = blocked;
    }

    function hook(address account, bool hooked) external {
        isHooked[account] = hooked;
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        if (_moves()) _move(msg.sender, to, amount);
        return _answer();
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        if (_moves()) {
            _spendAllowance(from, msg.sender, amount);
            _move(from, to, amount);
        }
        return _answer();
    }

    function _moves() private view returns (bool) {
        return manner != Manner.Failing && manner != Manner.Garbled && manner != Manner.Odd;
    }

    function _move(address from, address to, uint256 amount) private {
        if (isBlocked[to]) revert Blocked(to);
        uint256 charge = manner == Manner.Charging ? amount / 100 : 0;
        _transfer(from, to, amount - charge);
        if (charge > 0) _transfer(from, CHARGES, charge);
        _call(from);
        _call(to);
    }

    function _call(address account) private {
        if (!isHooked[account]) return;
        (bool done,) = account.call("");
        if (!done) revert HookFailed(account);
    }

    /// @dev Ends the call with the answer that the manner wants.
    function _answer() private view returns (bool) {
        if (manner == Manner.Failing) return false;
        if (manner == Manner.Standard || manner == Manner.Charging) return true;
        uint256 word = manner == Manner.Odd ? 2 : 1;
        uint256 size = 32;
        if (manner == Manner.Silent) size = 0;
        if (manner == Manner.Garbled) size = 1;
        if (manner == Manner.Lengthy || manner == Manner.LengthyFailure) size = LENGTHY_ANSWER;
        bool fails = manner == Manner.LengthyFailure;
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, word)
            if fails { revert(at, size) }
            return(at, size)
        }
    }
}
