// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {BitcoinKeys} from "../../../contracts/libraries/BitcoinKeys.sol";
import {FormatsHarness} from "../../../contracts/mocks/FormatsHarness.sol";
import {Signing} from "./base/Signing.sol";
import {Vm} from "./base/Vm.sol";

/// @title BitcoinKeysTest
/// @notice BIP-137 signatures: whose they are, and whose they are not.
contract BitcoinKeysTest is Signing {
    uint256 private constant FIELD_PRIME = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F;
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    string private constant MESSAGE = "a message";

    FormatsHarness private immutable harness = new FormatsHarness();

    function testFuzz_aKeySignsForItsPayeesInTheFormsThatTheHeaderAllows(uint256 secret, uint8 payeeForm, uint8 signed)
        external
    {
        Vm.Wallet memory key = _key(secret);
        (Form payee, Form header) = (Form(payeeForm % 4), Form(signed % 4));
        BitcoinKeys.Signature memory signature = bitcoinSignature(key, header, MESSAGE);
        bool isGood = payee == header || payee == Form.Nested && header != Form.Uncompressed
            || payee == Form.Segwit && header == Form.Compressed || payee == Form.Compressed && header == Form.Segwit;
        bytes21 name = bitcoinPayee(key, payee);
        if (!isGood) vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.KeyNotOfPayee.selector, name));
        harness.checkKey(name, bytes(MESSAGE), signature);
    }

    function testFuzz_aHighSIsAsGoodAsALowOne(uint256 secret) external {
        Vm.Wallet memory key = _key(secret);
        BitcoinKeys.Signature memory signature = bitcoinSignature(key, Form.Segwit, MESSAGE);
        signature.s = bytes32(ORDER - uint256(signature.s));
        signature.header = signature.header == 39 ? 40 : 39;
        harness.checkKey(bitcoinPayee(key, Form.Segwit), bytes(MESSAGE), signature);
    }

    function testFuzz_aHeaderOutsideTheStandardIsNamed(uint256 secret, uint8 header) external {
        Vm.Wallet memory key = _key(secret);
        BitcoinKeys.Signature memory signature = bitcoinSignature(key, Form.Segwit, MESSAGE);
        bytes21 payee = bitcoinPayee(key, Form.Segwit);
        bool isRight = header == signature.header || header == signature.header - 8; // compressed, or segwit
        signature.header = header;
        if (header < 27 || header > 42) {
            vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.InvalidHeader.selector, header));
        } else if ((header - 27) % 4 > 1) {
            vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.UnsupportedRecoveryId.selector, (header - 27) % 4));
        } else if (!isRight) {
            bool isForm = (header - 27) % 2 == (bitcoinSignature(key, Form.Segwit, MESSAGE).header - 27) % 2;
            if (isForm) vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.KeyNotOfPayee.selector, payee));
            else vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        }
        harness.checkKey(payee, bytes(MESSAGE), signature);
    }

    function testFuzz_aPointBesideTheCurveIsNamed(uint256 secret, uint256 x, uint256 y, uint8 way) external {
        Vm.Wallet memory key = _key(secret);
        BitcoinKeys.Signature memory signature = bitcoinSignature(key, Form.Segwit, MESSAGE);
        if (way % 4 == 0) (signature.x, signature.y) = (x, y);
        if (way % 4 == 1) signature.x = x;
        if (way % 4 == 2) signature.y = y;
        if (way % 4 == 3) (signature.x, signature.y) = (FIELD_PRIME + x % 2 ** 32, 0);
        vm.assume(signature.x >= FIELD_PRIME || signature.y >= FIELD_PRIME || !_isOnCurve(signature.x, signature.y));
        bytes21 payee = bitcoinPayee(key, Form.Segwit);
        vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.PointNotOnCurve.selector, signature.x, signature.y));
        harness.checkKey(payee, bytes(MESSAGE), signature);
    }

    /// @dev A coordinate that is the right one plus the field's size is another word for the same point.
    function test_coordinatesHaveOneForm() external {
        // The curve has points with y^2 = 8 at x = 1.
        uint256 y = 0x4218F20AE6C646B363DB68605822FB14264CA8D2587FDD6FBC750D587E76A7EE;
        vm.assertTrue(_isOnCurve(1, y), "a point");
        bytes32 one = bytes32(uint256(1));
        BitcoinKeys.Signature memory signature = BitcoinKeys.Signature(39, one, one, 1, y);
        vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        harness.checkKey(bytes21(uint168(1)), "", signature);
        signature.x = FIELD_PRIME + 1;
        vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.PointNotOnCurve.selector, FIELD_PRIME + 1, y));
        harness.checkKey(bytes21(uint168(1)), "", signature);
        (signature.x, signature.y) = (1, type(uint256).max);
        vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.PointNotOnCurve.selector, 1, type(uint256).max));
        harness.checkKey(bytes21(uint168(1)), "", signature);
    }

    function testFuzz_anotherKeyMessageOrSignatureIsRefused(uint256 secret, uint256 other, bytes32 r, bytes32 s)
        external
    {
        Vm.Wallet memory key = _key(secret);
        Vm.Wallet memory thief = _key(other);
        vm.assume(key.addr != thief.addr);
        bytes21 payee = bitcoinPayee(key, Form.Segwit);
        BitcoinKeys.Signature memory signature = bitcoinSignature(thief, Form.Segwit, MESSAGE);
        vm.expectRevert(abi.encodeWithSelector(BitcoinKeys.KeyNotOfPayee.selector, payee));
        harness.checkKey(payee, bytes(MESSAGE), signature);
        (signature.x, signature.y) = (key.publicKeyX, key.publicKeyY);
        vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        harness.checkKey(payee, bytes(MESSAGE), signature);
        (signature.r, signature.s) = (r, s);
        vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        harness.checkKey(payee, bytes(MESSAGE), signature);
        signature = bitcoinSignature(key, Form.Segwit, MESSAGE);
        vm.expectRevert(BitcoinKeys.WrongSigner.selector);
        harness.checkKey(payee, "another message", signature);
    }

    function testFuzz_digestsAreThoseOfTheStandard(bytes calldata start, uint16 more) external view {
        bytes memory message = bytes.concat(start, new bytes(more % 700));
        uint256 length = message.length;
        bytes memory size = length < 253
            ? abi.encodePacked(uint8(length))
            : abi.encodePacked(hex"fd", uint8(length % 256), uint8(length / 256));
        bytes32 once = sha256(bytes.concat("\x18Bitcoin Signed Message:\n", size, message));
        vm.assertEq(harness.messageDigest(message), sha256(abi.encodePacked(once)), "digest");
    }

    function testFuzz_aPayeesKindAndIdAreItsParts(bytes21 payee, address account) external view {
        vm.assertEq(uint256(harness.kindOf(payee)), uint256(uint8(payee[0])), "kind");
        address id = harness.accountOf(payee);
        vm.assertEq(bytes32(harness.payeeOfId(uint8(payee[0]), bytes20(id))), bytes32(payee), "and back");
        vm.assertEq(harness.accountOf(harness.payeeOfAccount(account)), account, "account");
        vm.assertEq(uint256(harness.kindOf(harness.payeeOfAccount(account))), 0, "an account's kind");
    }

    function _key(uint256 secret) private returns (Vm.Wallet memory) {
        return vm.createWallet(bound(secret, 1, ORDER - 1));
    }

    function _isOnCurve(uint256 x, uint256 y) private pure returns (bool) {
        uint256 right = addmod(mulmod(x, mulmod(x, x, FIELD_PRIME), FIELD_PRIME), 7, FIELD_PRIME);
        return mulmod(y, y, FIELD_PRIME) == right;
    }
}
