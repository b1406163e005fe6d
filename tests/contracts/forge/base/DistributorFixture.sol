// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Distributor} from "../../../../contracts/Distributor.sol";
import {IDistributor} from "../../../../contracts/interfaces/IDistributor.sol";
import {NativeDistributor} from "../../../../contracts/NativeDistributor.sol";
import {Signing} from "./Signing.sol";
import {Trees} from "./Trees.sol";
import {Vm} from "./Vm.sol";

/// @title DistributorFixture
/// @notice A native distributor with three miners in its genesis tree.
abstract contract DistributorFixture is Signing {
    using Trees for Trees.Tree;

    bytes32 internal constant MANIFEST = bytes32(uint256(0x3a));
    uint256 internal constant NEVER = type(uint256).max;

    address internal immutable operator = person("operator");
    address internal immutable feeRecipient = person("fee recipient");
    address internal immutable stranger = person("stranger");
    address internal immutable home = person("home");

    NativeDistributor internal pool;
    Vm.Wallet internal wallet;
    bytes21[] internal payees;
    uint64[] internal weights = [5, 3, 2];

    function setUp() public virtual {
        wallet = vm.createWallet(0xa11ce);
        payees.push(bytes21(uint168(0x1001)));
        payees.push(bytes21(uint168(0x1002)));
        payees.push(bytes21(uint168(0x1003)));
        pool = make(settings());
    }

    function settings() internal view returns (Distributor.Settings memory) {
        return Distributor.Settings({
            operator: operator,
            feeRecipient: feeRecipient,
            feeBps: 0,
            feeCapBps: 500,
            activationDelay: 0,
            minPayout: 0,
            genesisRoot: tree().root(),
            genesisManifestHash: MANIFEST
        });
    }

    function make(Distributor.Settings memory terms) internal virtual returns (NativeDistributor) {
        return new NativeDistributor(terms);
    }

    function tree() internal view returns (Trees.Tree memory) {
        return Trees.honest(payees, weights);
    }

    function reward(uint256 amount) internal {
        vm.deal(address(pool), address(pool).balance + amount);
    }

    function payout(uint256 amount) internal returns (uint256 id) {
        reward(amount);
        pool.sync();
        return pool.payoutCount() - 1;
    }

    function claimOf(Trees.Ticket memory ticket, uint256 id)
        internal
        pure
        returns (IDistributor.Claim[] memory claims)
    {
        claims = new IDistributor.Claim[](1);
        claims[0] = IDistributor.Claim(id, ticket.index, ticket.weight, ticket.proof);
    }

    function accountOf(bytes21 payee) internal pure returns (address) {
        return address(uint160(uint168(payee)));
    }
}
