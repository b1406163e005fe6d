// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IBridge} from "./IBridge.sol";
import {INativeDistributor} from "./INativeDistributor.sol";

/// @title IFlyoverRoute
/// @notice Brings a Bitcoin block reward to a distributor through Rootstock's flyover deposits.
///
/// A pool's coinbase pays an address that is derived from the PowPeg's redeem script and from the epoch's commitment,
/// so the block itself fixes the root that divides its reward, and nobody can redirect it: another root gives another
/// address. Between block and contract the PowPeg's signers are trusted.
interface IFlyoverRoute {
    /// @notice A reward arrived and became a payout.
    /// @param txid The coinbase's id, in Bitcoin's internal byte order: by it anybody finds the block's payout.
    event Registered(
        bytes32 indexed txid,
        bytes32 indexed commitment,
        uint256 indexed payoutId,
        bytes32 root,
        bytes32 manifestHash,
        uint256 amount
    );

    error ZeroAddress();
    error OnlyBridge(address caller);
    /// @notice Code -100: over the bridge's locking cap, it would refund the user. Try again when there is room.
    error BridgeRefundsUser();
    /// @notice Code -200: over the bridge's locking cap, it would refund the provider. Try again when there is room.
    error BridgeRefundsProvider();
    /// @notice Code -300: the bridge saw a caller without code.
    error BridgeCallerNotContract();
    /// @notice Code -301: the bridge saw another caller than this contract.
    error BridgeWrongSender();
    /// @notice Code -302: this reward is registered already.
    error BridgeAlreadyProcessed();
    /// @notice Code -303: the proof, the height or the number of confirmations (100) is not as it must be.
    error BridgeInvalidTransaction();
    /// @notice Code -304: no output pays the address of this commitment.
    error BridgeNothingPaid();
    /// @notice Code -305: an output is below the bridge's minimum.
    error BridgeBelowMinimum();
    /// @notice Any other answer that is not an amount.
    error BridgeFailed(int256 code);
    /// @notice The bridge said that it paid, and the balance did not rise by that.
    error BridgeAmountMismatch(uint256 said, uint256 came);

    /// @notice Registers a matured coinbase and funds the distributor with what it paid. Anyone may call it.
    /// @param btcTx The coinbase without witness data, so that its hash is the txid.
    /// @param height The block's height.
    /// @param pmt The partial merkle tree that proves the coinbase (BIP-37 form).
    /// @param root The epoch's root.
    /// @param manifestHash The epoch's manifest hash.
    /// @return payoutId The payout that was funded.
    function register(bytes calldata btcTx, uint256 height, bytes calldata pmt, bytes32 root, bytes32 manifestHash)
        external
        returns (uint256 payoutId);

    /// @notice The commitment of an epoch: keccak256(abi.encode(chainId, distributor, root, manifestHash)).
    function commitmentOf(bytes32 root, bytes32 manifestHash) external view returns (bytes32);

    /// @notice The hash that the deposit address depends on: keccak256(args + userRefund + lbc + lp).
    function derivationHash(bytes32 commitment) external view returns (bytes32);

    /// @notice The two forms of the deposit output for the PowPeg active now; the bridge's own address tells which
    ///         one is in use.
    /// @return p2sh HASH160 of the redeem script.
    /// @return p2shP2wsh HASH160 of the nested witness program.
    function depositScriptHashes(bytes32 commitment) external view returns (bytes20 p2sh, bytes20 p2shP2wsh);

    function bridge() external view returns (IBridge);
    function distributor() external view returns (INativeDistributor);
    /// @notice Where the bridge refunds what it cannot take: version byte + hash. Never the operator's.
    function userRefund() external view returns (bytes21);
    /// @notice The provider's refund address in the bridge's terms; never the operator's either.
    function providerRefund() external view returns (bytes21);
}
