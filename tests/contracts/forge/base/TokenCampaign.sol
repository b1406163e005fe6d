// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Distributor} from "../../../../contracts/Distributor.sol";
import {TokenDistributor} from "../../../../contracts/TokenDistributor.sol";
import {SumTree} from "../../../../contracts/libraries/SumTree.sol";
import {TestToken} from "../../../../contracts/mocks/TestTokens.sol";
import {Campaign} from "./Campaign.sol";
import {Troublemaker} from "./Troublemaker.sol";

/// @title TokenCampaign
/// @notice The campaign on a distributor of a token that changes its manners, blocks recipients and
///         calls those it pays.
contract TokenCampaign is Campaign {
    TestToken private immutable token = new TestToken();
    TestToken.Manner private manner;

    constructor(uint64 activationDelay, uint256 minPayout) {
        distributor = new TokenDistributor(
            Distributor.Settings({
                operator: operator,
                feeRecipient: feeRecipient,
                feeBps: 300,
                feeCapBps: 500,
                activationDelay: activationDelay,
                minPayout: minPayout,
                genesisRoot: genesisRoot(),
                genesisManifestHash: 0
            }),
            token
        );
        _begin();
        people.push(token.CHARGES());
        for (uint256 i = 0; i < troublemakers.length; ++i) {
            token.hook(address(troublemakers[i]), true);
        }
    }

    function assetOf(address account) internal view override returns (uint256) {
        return token.balanceOf(account);
    }

    function arrive(uint256 amount) internal override {
        cameIn += amount;
        token.mint(address(distributor), amount);
    }

    function fund(bytes32 root, uint256 amount) internal override returns (uint256 credited, bool done) {
        token.mint(relayer, amount);
        vm.prank(relayer);
        token.approve(address(distributor), amount);
        vm.prank(relayer);
        try TokenDistributor(address(distributor)).fund(root, bytes32(amount), amount) returns (uint256 id) {
            vm.assertEq(id, books.length, "the id of a payout");
            cameIn += amount;
            return (manner == TestToken.Manner.Charging ? amount - amount / 100 : amount, true);
        } catch {
            vm.assertTrue(SumTree.sumOf(root) == 0 || !_moves(), "fund");
            vm.assertLe(amount, token.balanceOf(relayer), "a fund that failed took money");
        }
    }

    function changeAsset(uint256 seed) internal override {
        manner = TestToken.Manner(draw(seed, "manner") % 8);
        token.setManner(manner);
        token.block_(people[draw(seed, "blocked") % people.length], draw(seed, "block") % 3 == 0);
    }

    function calmAsset() internal override {
        manner = TestToken.Manner.Standard;
        token.setManner(manner);
        for (uint256 i = 0; i < people.length; ++i) {
            token.block_(people[i], false);
        }
    }

    function _moves() private view returns (bool) {
        return manner == TestToken.Manner.Standard || manner == TestToken.Manner.Silent
            || manner == TestToken.Manner.Lengthy || manner == TestToken.Manner.Charging;
    }

    /// @dev A token in a bad mood refuses for everybody.
    function _mayRefuse(address account) internal view override returns (bool) {
        return !_moves() || token.isBlocked(account) || super._mayRefuse(account);
    }

    function _makeTroublemaker() internal override returns (Troublemaker) {
        return new Troublemaker(address(distributor), token);
    }
}
