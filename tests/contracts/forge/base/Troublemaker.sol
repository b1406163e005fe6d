// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title Troublemaker
/// @notice A recipient that behaves as it is told each time money comes: by a plain send, or by a token's hook.
contract Troublemaker {
    /// @dev SendBack gives back what came; of a token, which does not say how much that was, all that it holds. Greedy
    ///      takes money only with more gas than a claim of either asset gives; Picky with what both give, and it
    ///      refuses at once, so that the caller has enough left to go on.
    enum Mood {
        Accept,
        Refuse,
        Burn,
        Shout,
        SendBack,
        CallBack,
        Greedy,
        Picky
    }

    address private immutable distributor;
    IERC20 private immutable token; // zero for the chain's own coin

    Mood public mood;
    bytes public data;
    /// @notice How many of its calls, made while it was being paid, were not turned away.
    uint256 public intrusions;
    bool private isBusy;

    error Refused();

    constructor(address distributor_, IERC20 token_) {
        distributor = distributor_;
        token = token_;
    }

    function behave(Mood mood_, bytes calldata data_) external {
        mood = mood_;
        data = data_;
    }

    receive() external payable {
        if (isBusy) return;
        if (mood == Mood.Refuse) revert Refused();
        if (mood == Mood.Greedy && gasleft() < 150_000) revert Refused();
        if (mood == Mood.Picky && gasleft() < 45_000) revert Refused();
        if (mood == Mood.Burn) {
            while (true) {}
        }
        if (mood == Mood.Shout) {
            assembly {
                revert(0, 30000)
            }
        }
        if (mood == Mood.SendBack) _sendBack();
        if (mood == Mood.CallBack) {
            (bool done,) = distributor.call(data);
            if (done) ++intrusions;
        }
    }

    function _sendBack() private {
        isBusy = true;
        if (address(token) == address(0)) {
            (bool done,) = distributor.call{value: msg.value}("");
            if (!done) revert Refused();
        } else {
            token.transfer(distributor, token.balanceOf(address(this)));
        }
        isBusy = false;
    }
}
