// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title PlainCumulativeDistributor
/// @notice FOR GAS COMPARISON ONLY. The usual cumulative distributor in its simplest form: one root, replaced at will,
///         over (account, amount so far); an account is sent what it has not had yet. Its owner can take everything, by
///         another root.
contract PlainCumulativeDistributor {
    address public immutable owner = msg.sender;
    bytes32 public merkleRoot;
    mapping(address account => uint256 amount) public cumulativeClaimed;

    event Claimed(address indexed account, uint256 amount);

    error NotOwner();
    error InvalidProof();
    error NothingToClaim();
    error SendFailed();

    receive() external payable {}

    function setMerkleRoot(bytes32 root) external {
        if (msg.sender != owner) revert NotOwner();
        merkleRoot = root;
    }

    function claim(address account, uint256 cumulativeAmount, bytes32[] calldata proof) external {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(account, cumulativeAmount))));
        if (!MerkleProof.verifyCalldata(proof, merkleRoot, leaf)) revert InvalidProof();
        uint256 before = cumulativeClaimed[account];
        if (cumulativeAmount <= before) revert NothingToClaim();
        cumulativeClaimed[account] = cumulativeAmount;
        uint256 amount = cumulativeAmount - before;
        emit Claimed(account, amount);
        (bool sent,) = account.call{value: amount}("");
        if (!sent) revert SendFailed();
    }
}
