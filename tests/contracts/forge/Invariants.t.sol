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
            bytes4 action = actions[seed % actions.length];
            (bool done, bytes memory answer) = address(campaign).call(abi.encodeWithSelector(action, seed / 100));
            if (!done) {
                assembly {
                    revert(add(answer, 32), mload(answer))
                }
            }
            campaign.checkPromises();
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
}
