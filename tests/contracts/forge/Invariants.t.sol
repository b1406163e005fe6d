// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Campaign} from "./base/Campaign.sol";
import {NativeCampaign} from "./base/NativeCampaign.sol";
import {TestBase} from "./base/TestBase.sol";
import {TokenCampaign} from "./base/TokenCampaign.sol";

/// @title Invariants
/// @notice The promises of IDistributor, after every step of campaigns by miners, relayers, an operator, a thief and a
///         donor. What each step must do is checked inside the step (see Campaign).
abstract contract Invariants is TestBase {
    Campaign internal campaign;

    bytes4[] private actions = [
        Campaign.minerClaims.selector,
        Campaign.minerSetsRecipient.selector,
        Campaign.minerSignsForRecipient.selector,
        Campaign.minerLinksBitcoinKey.selector,
        Campaign.minerWithdrawsOwed.selector,
        Campaign.relayerClaimsForMany.selector,
        Campaign.relayerSyncs.selector,
        Campaign.relayerSendsOwed.selector,
        Campaign.relayerSendsFee.selector,
        Campaign.timePasses.selector,
        Campaign.operatorCommits.selector,
        Campaign.operatorLowersFee.selector,
        Campaign.operatorHandsOver.selector,
        Campaign.operatorTriesEverythingElse.selector,
        Campaign.thiefClaims.selector,
        Campaign.thiefPlaysOthers.selector,
        Campaign.recipientsMakeTrouble.selector,
        Campaign.donorSends.selector,
        Campaign.donorFunds.selector
    ];

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(campaign);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(campaign), actions);
    }

    function invariant_everyPromiseHolds() external view {
        campaign.checkPromises();
    }

    function afterInvariant() external {
        campaign.settle();
    }

    /// @dev The campaign is worth nothing if its actions are all refused, so this counts what they achieve.
    function test_everythingThatMattersHappensInACampaign() external {
        for (uint256 i = 0; i < 1_500; ++i) {
            uint256 seed = uint256(keccak256(abi.encode("campaign", i)));
            _act(actions[seed % actions.length], seed / 100);
        }
        campaign.settle();
        string[19] memory all = [
            "arrival",
            "attribution",
            "fund",
            "commit",
            "commit refused",
            "claim",
            "claim of several",
            "claim refused",
            "batch of several",
            "owed",
            "sent back",
            "owed sent",
            "owed withdrawn",
            "fee sent",
            "signed",
            "signature refused",
            "linked",
            "link refused",
            "theft tried"
        ];
        for (uint256 i = 0; i < all.length; ++i) {
            vm.assertLe(1, campaign.happened(all[i]), all[i]);
        }
    }

    function _act(bytes4 action, uint256 seed) internal {
        (bool done, bytes memory answer) = address(campaign).call(abi.encodeWithSelector(action, seed));
        if (!done) {
            assembly {
                revert(add(answer, 32), mload(answer))
            }
        }
        campaign.checkPromises();
    }
}

contract NativeInvariants is Invariants {
    function setUp() external {
        campaign = new NativeCampaign(0, 0);
    }
}

contract DelayedNativeInvariants is Invariants {
    function setUp() external {
        campaign = new NativeCampaign(1 days, 10 ** 9);
    }
}

contract TokenInvariants is Invariants {
    function setUp() external {
        campaign = new TokenCampaign(0, 50);
    }

    /// @dev In the whole campaign this happens once in some ten thousand actions: a recipient that holds tokens already
    ///      is paid, and sends all of them back. Here are only the actions that lead there, honest trees, of which
    ///      everybody has a part, and recipients that take what comes or send it back.
    function test_recipientsMaySendBackMoreThanTheyWerePaid() external {
        bytes4[3] memory some = [
            Campaign.donorFunds.selector,
            Campaign.relayerClaimsForMany.selector,
            Campaign.recipientsMakeTrouble.selector
        ];
        for (uint256 i = 0; i < 600; ++i) {
            uint256 seed = uint256(keccak256(abi.encode("sent back", i)));
            bytes4 action = some[seed % some.length];
            seed /= 100;
            if (action == Campaign.donorFunds.selector && draw(seed, "kind") % 3 != 0) continue;
            if (action == Campaign.recipientsMakeTrouble.selector && draw(seed, "mood") % 12 % 4 != 0) continue;
            _act(action, seed);
        }
        campaign.settle();
        vm.assertLe(1, campaign.happened("sent back more"), "sent back more");
    }
}
