// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Distributor} from "../../../../contracts/Distributor.sol";
import {NativeDistributor} from "../../../../contracts/NativeDistributor.sol";
import {SumTree} from "../../../../contracts/libraries/SumTree.sol";
import {Campaign} from "./Campaign.sol";
import {Troublemaker} from "./Troublemaker.sol";

/// @title NativeCampaign
/// @notice The campaign on a distributor of the chain's own coin.
contract NativeCampaign is Campaign {
    constructor(uint64 activationDelay, uint256 minPayout) {
        distributor = new NativeDistributor(
            Distributor.Settings({
                operator: operator,
                feeRecipient: feeRecipient,
                feeBps: 300,
                feeCapBps: 500,
                activationDelay: activationDelay,
                minPayout: minPayout,
                genesisRoot: genesisRoot(),
                genesisManifestHash: 0
            })
        );
        _begin();
    }

    function assetOf(address account) internal view override returns (uint256) {
        return account.balance;
    }

    function arrive(uint256 amount) internal override {
        cameIn += amount;
        if (amount % 2 == 0) {
            vm.deal(address(distributor), address(distributor).balance + amount); // a coinbase reward calls nobody
            return;
        }
        vm.deal(relayer, amount);
        vm.prank(relayer);
        (bool sent,) = address(distributor).call{value: amount}("");
        vm.assertTrue(sent, "a plain transfer");
    }

    function fund(bytes32 root, uint256 amount) internal override returns (uint256 credited, bool done) {
        NativeDistributor native = NativeDistributor(payable(address(distributor)));
        vm.deal(relayer, amount);
        vm.prank(relayer);
        try native.fund{value: amount}(root, bytes32(amount)) returns (uint256 id) {
            vm.assertEq(id, books.length, "the id of a payout");
            cameIn += amount;
            return (amount, true);
        } catch {
            vm.assertEq(SumTree.sumOf(root), 0, "fund");
            vm.deal(relayer, 0);
        }
    }

    function changeAsset(uint256) internal override {}

    function calmAsset() internal override {}

    function _makeTroublemaker() internal override returns (Troublemaker) {
        return new Troublemaker(address(distributor), IERC20(address(0)));
    }
}
