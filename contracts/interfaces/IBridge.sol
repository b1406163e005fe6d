// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title IBridge
/// @notice The part of Rootstock's bridge (precompiled contract 0x...01000006) that the flyover route uses.
/// @dev Source: rskj, co.rsk.peg.Bridge and FlyoverTxResponseCodes.
interface IBridge {
    /// @notice Credits a Bitcoin deposit to the contract that calls, if the deposit paid the address derived from the
    ///         active PowPeg redeem script and the four derivation arguments.
    /// @return result The amount in wei, or a negative error code.
    function registerFastBridgeBtcTransaction(
        bytes calldata btcTxSerialized,
        uint256 height,
        bytes calldata pmtSerialized,
        bytes32 derivationArgumentsHash,
        bytes calldata userRefundBtcAddress,
        address payable liquidityBridgeContractAddress,
        bytes calldata liquidityProviderBtcAddress,
        bool shouldTransferToContract
    ) external returns (int256 result);

    /// @notice Takes 80-byte Bitcoin headers.
    function receiveHeaders(bytes[] calldata blocks) external;

    function getActivePowpegRedeemScript() external view returns (bytes memory);

    function getBtcBlockchainBestChainHeight() external view returns (int256);
}
