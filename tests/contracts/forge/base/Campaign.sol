// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {BitcoinKeys} from "../../../../contracts/libraries/BitcoinKeys.sol";
import {Distributor} from "../../../../contracts/Distributor.sol";
import {IDistributor} from "../../../../contracts/interfaces/IDistributor.sol";
import {FormatsHarness} from "../../../../contracts/mocks/FormatsHarness.sol";
import {SumTree} from "../../../../contracts/libraries/SumTree.sol";
import {Signing} from "./Signing.sol";
import {Trees} from "./Trees.sol";
import {Troublemaker} from "./Troublemaker.sol";
import {Vm} from "./Vm.sol";

/// @title Campaign
/// @notice Miners, relayers, an operator, a thief and a donor who act on one distributor in any order, with books of
///         their own: what each call must do is computed here, from the documented rules, and compared with what it
///         did. Every action takes one seed and never reverts unless a promise is broken.
abstract contract Campaign is Signing {
    using Trees for Trees.Tree;

    /// @dev What a payout was when it was recorded, and what has been paid of it since.
    struct Book {
        bytes32 root;
        uint256 amount;
        uint256 epoch;
        uint256 time;
        uint256 paid;
    }

    struct Epoch {
        bytes32 root;
        uint256 number;
        uint256 activeFrom;
    }

    /// @dev What people hold, each and together, what is owed, and what waits at the distributor for attribution.
    struct Funds {
        uint256[] holdings;
        uint256 held;
        uint256 owed;
        uint256 waiting;
    }

    uint256 internal constant MOST_TREES = 12;

    Distributor public distributor;
    FormatsHarness private immutable harness = new FormatsHarness();

    /* CAST */

    address internal operator = person("operator");
    address internal immutable feeRecipient = person("fee recipient");
    address internal immutable relayer = person("relayer");
    address internal immutable thief = person("thief");
    /// @dev Everyone and everything that may come to hold the asset, apart from the distributor.
    address[] internal people;
    bytes21[] internal payees;
    Vm.Wallet[3] internal wallets;
    Troublemaker[2] internal troublemakers;

    /* BOOKS */

    Book[] internal books;
    Epoch internal active;
    Epoch internal pending;
    uint256 internal feeBps;
    uint256 internal feeDue;
    /// @dev Everything that payouts have not paid yet.
    uint256 internal open;
    /// @dev The same, what is owed, and the fee.
    uint256 internal accounted;
    uint256 internal cameIn;
    mapping(bytes21 payee => mapping(uint256 payoutId => bool)) internal isPaid;

    bytes32[] internal roots;
    mapping(bytes32 root => Trees.Ticket[]) internal tickets;

    /// @notice How often each thing happened, so that a test can see that all of them do.
    mapping(string what => uint256) public happened;

    /// @dev To be called by the children's constructors, once there is a distributor.
    function _begin() internal {
        for (uint256 i = 0; i < wallets.length; ++i) {
            wallets[i] = _wallet(i);
            people.push(wallets[i].addr);
        }
        for (uint256 i = 0; i < troublemakers.length; ++i) {
            troublemakers[i] = _makeTroublemaker();
            people.push(address(troublemakers[i]));
        }
        people.push(person("cold wallet"));
        people.push(person("exchange"));
        people.push(thief);
        people.push(operator);
        people.push(feeRecipient);
        payees.push(_account(wallets[0].addr));
        payees.push(_account(wallets[1].addr));
        payees.push(_account(address(troublemakers[0])));
        payees.push(_account(address(troublemakers[1])));
        payees.push(_account(address(distributor)));
        payees.push(bitcoinPayee(wallets[1], Form.Segwit));
        payees.push(bitcoinPayee(wallets[2], Form.Uncompressed));
        payees.push(bitcoinPayee(wallets[2], Form.Nested));
        payees.push(bytes21(uint168(3) << 160)); // nobody's
        tickets[genesisRoot()].push(Trees.Ticket(payees[0], 0, 1, new bytes32[](0), true));
        roots.push(genesisRoot());
        active = Epoch(genesisRoot(), 0, block.timestamp);
        feeBps = distributor.feeBps();
    }

    /// @dev The genesis payee is the first wallet.
    function genesisRoot() internal returns (bytes32) {
        return SumTree.leaf(_account(_wallet(0).addr), 1);
    }

    function _wallet(uint256 number) private returns (Vm.Wallet memory) {
        return vm.createWallet(uint256(keccak256(abi.encode("wallet", number))));
    }

    /* THE ASSET: native or token */

    function assetOf(address account) internal view virtual returns (uint256);
    /// @dev The asset appears at the distributor, as a coinbase reward or by a plain transfer.
    function arrive(uint256 amount) internal virtual;
    /// @dev Somebody funds a payout; returns what must have been credited.
    function fund(bytes32 root, uint256 amount) internal virtual returns (uint256 credited, bool done);
    /// @dev Changes how the asset itself behaves, where it can.
    function changeAsset(uint256 seed) internal virtual;
    /// @dev Everything is as honest tokens and recipients are.
    function calmAsset() internal virtual;
    function _makeTroublemaker() internal virtual returns (Troublemaker);

    /* MINERS */

    function minerClaims(uint256 seed) external {
        if (books.length == 0) return;
        uint256 id = _payoutId(seed);
        Trees.Ticket memory ticket = _ticket(books[id].root, seed);
        uint256 count = 1 + draw(seed, "count") % 4;
        IDistributor.Claim[] memory claims = new IDistributor.Claim[](count);
        claims[0] = IDistributor.Claim(id, ticket.index, ticket.weight, ticket.proof);
        for (uint256 i = 1; i < count; ++i) {
            uint256 other = (id + i + draw(seed, "gap") % 2) % books.length;
            Trees.Ticket memory more = _ticketOf(ticket.payee, books[other].root, seed >> i);
            claims[i] = IDistributor.Claim(other, more.index, more.weight, more.proof);
        }
        _claim(ticket.payee, claims, seed);
    }

    function minerSetsRecipient(uint256 seed) external {
        address miner = seed % 2 == 0 ? wallets[seed / 2 % 3].addr : address(troublemakers[seed / 2 % 2]);
        address recipient = _home(draw(seed, "home"));
        bytes21 payee = _account(miner);
        uint256 nonce = distributor.nonceOf(payee);
        vm.prank(miner);
        try distributor.setRecipient(recipient) {
            vm.assertTrue(recipient != address(distributor), "the distributor as recipient");
            _checkRecipient(payee, recipient, nonce);
        } catch {
            vm.assertEq(recipient, address(distributor), "setRecipient");
        }
    }

    function minerSignsForRecipient(uint256 seed) external {
        Vm.Wallet memory wallet = wallets[seed % 3];
        address recipient = _home(draw(seed, "home"));
        uint256 nonce = distributor.nonceOf(_account(wallet.addr));
        uint256 deadline = block.timestamp - 1 + draw(seed, "deadline") % 8;
        uint256 signedNonce = nonce;
        if (draw(seed, "nonce") % 8 == 0) signedNonce = nonce + 1;
        if (draw(seed, "nonce") % 8 == 1 && nonce > 0) signedNonce = nonce - 1;
        bytes32 digest = recipientDigest(address(distributor), wallet.addr, recipient, signedNonce, deadline);
        bool isGood =
            signedNonce == nonce && deadline >= block.timestamp && recipient != address(distributor);
        bytes memory signature = accountSignature(wallet, digest);
        vm.prank(relayer);
        try distributor.setRecipientBySig(wallet.addr, recipient, deadline, signature) {
            vm.assertTrue(isGood, "a signature that is stale, late or for the distributor itself");
            _checkRecipient(_account(wallet.addr), recipient, nonce);
            ++happened["signed"];
        } catch {
            vm.assertFalse(isGood, "setRecipientBySig");
            ++happened["signature refused"];
        }
    }

    function minerLinksBitcoinKey(uint256 seed) external {
        Vm.Wallet memory wallet = wallets[seed % 3];
        Form form = Form(draw(seed, "form") % 4);
        bytes21 payee = bitcoinPayee(wallet, form);
        address recipient = _home(draw(seed, "home"));
        uint256 deadline = block.timestamp - 1 + draw(seed, "deadline") % 8;
        string memory message = distributor.linkMessage(payee, recipient, deadline);
        Vm.Wallet memory signer = wallets[draw(seed, "signer") % 4 == 0 ? (seed % 3 + 1) % 3 : seed % 3];
        BitcoinKeys.Signature memory signature = bitcoinSignature(signer, form, message);
        bool isGood = signer.addr == wallet.addr && deadline >= block.timestamp && recipient != address(0)
            && recipient != address(distributor);
        uint256 nonce = distributor.nonceOf(payee);
        vm.prank(relayer);
        try distributor.linkBitcoinKey(payee, recipient, deadline, signature) {
            vm.assertTrue(isGood, "a link that is late, another's, or to nowhere");
            _checkRecipient(payee, recipient, nonce);
            ++happened["linked"];
        } catch {
            vm.assertFalse(isGood, "linkBitcoinKey");
            ++happened["link refused"];
            return;
        }
        vm.prank(thief);
        try distributor.linkBitcoinKey(payee, recipient, deadline, signature) {
            vm.assertTrue(false, "a link worked twice");
        } catch {}
    }

    function minerWithdrawsOwed(uint256 seed) external {
        address creditor = people[seed % people.length];
        address to = _home(draw(seed, "home"));
        uint256 due = distributor.owed(creditor);
        uint256 held = _held();
        uint256 before = _everything();
        vm.prank(creditor);
        try distributor.withdrawOwed(to) returns (uint256 amount) {
            vm.assertTrue(to != address(0) && to != address(distributor) && due > 0, "withdrawOwed to nowhere");
            _owedWasSent(creditor, due, amount, before);
            if (!_mayComeBack(to)) vm.assertEq(_held() - held, due, "withdrawn and not sent");
            ++happened["owed withdrawn"];
        } catch {
            vm.assertTrue(
                due == 0 || to == address(0) || to == address(distributor) || _mayRefuse(to), "withdrawOwed"
            );
        }
    }

    /* RELAYERS */

    function relayerClaimsForMany(uint256 seed) external {
        if (books.length == 0) return;
        uint256 id = _payoutId(seed);
        uint256 count = 1 + draw(seed, "count") % 6;
        IDistributor.PayeeClaim[] memory claims = new IDistributor.PayeeClaim[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 random = draw(seed, "items") >> 32 * i;
            Trees.Ticket memory ticket = _ticket(books[id].root, random);
            if (random & 0xf00 == 0) ticket = Trees.mutated(ticket, random >> 12);
            claims[i] = IDistributor.PayeeClaim(ticket.payee, ticket.index, ticket.weight, ticket.proof);
        }
        _claimMany(id, claims, relayer);
    }

    function relayerSyncs(uint256) external {
        if (pending.root != 0 && block.timestamp >= pending.activeFrom) _expectActivation();
        _expectAttribution(distributor.minPayout());
        vm.prank(relayer);
        distributor.sync();
        _checkBooks();
    }

    function relayerSendsOwed(uint256 seed) external {
        address creditor = people[seed % people.length];
        uint256 due = distributor.owed(creditor);
        uint256 held = _held();
        uint256 before = _everything();
        vm.prank(relayer);
        try distributor.sendOwed(creditor) returns (uint256 amount) {
            _owedWasSent(creditor, due, amount, before);
            if (!_mayComeBack(creditor)) vm.assertEq(_held() - held, due, "taken for sent");
            ++happened["owed sent"];
        } catch {
            vm.assertTrue(due == 0 || _mayRefuse(creditor), "sendOwed");
        }
    }

    function relayerSendsFee(uint256) external {
        uint256 before = _held();
        vm.prank(relayer);
        try distributor.withdrawFee() returns (uint256 amount) {
            vm.assertEq(amount, feeDue, "the fee");
            vm.assertEq(_held() - before, amount, "the fee's way");
            accounted -= amount;
            feeDue = 0;
            ++happened["fee sent"];
        } catch {
            vm.assertTrue(feeDue == 0 || _mayRefuse(feeRecipient), "withdrawFee");
        }
    }

    function timePasses(uint256 seed) external {
        vm.warp(block.timestamp + 1 + seed % 9 hours);
    }

    /* OPERATOR: whose every call is followed by a look at all payouts */

    modifier payoutsStay(uint256 seed) {
        bytes32 before = _allPayouts(books.length);
        uint256 count = books.length;
        uint256 worth = _worthOfAny(seed);
        _;
        vm.assertEq(_allPayouts(count), before, "the operator changed a payout");
        if (count > 0) vm.assertEq(_worthOfAny(seed, count), worth, "the operator changed what a claim is worth");
    }

    function operatorCommits(uint256 seed) external payoutsStay(seed) {
        bytes32 root = _plant(seed);
        uint256 delay = distributor.activationDelay();
        bool isDue = block.timestamp >= pending.activeFrom;
        bool isGood = SumTree.sumOf(root) > 0 && (pending.root == 0 || isDue);
        if (!isGood) {
            vm.prank(operator);
            try distributor.commit(root, bytes32(seed)) {
                vm.assertTrue(false, "a commit of nothing, or over a pending one");
            } catch {}
            ++happened["commit refused"];
            return;
        }
        if (delay == 0) _expectAttribution(0);
        else if (pending.root != 0) _expectActivation();
        Epoch memory next = Epoch(root, active.number + 1, block.timestamp + delay);
        if (delay == 0) active = next;
        else pending = next;
        vm.prank(operator);
        vm.assertEq(distributor.commit(root, bytes32(seed)), next.number, "the epoch's number");
        _checkBooks();
        ++happened["commit"];
    }

    function operatorLowersFee(uint256 seed) external payoutsStay(seed) {
        uint256 wanted = seed % 600;
        vm.prank(operator);
        try distributor.lowerFee(uint16(wanted)) {
            vm.assertTrue(wanted < feeBps, "the fee was raised");
            feeBps = wanted;
        } catch {
            vm.assertTrue(wanted >= feeBps, "lowerFee");
        }
    }

    function operatorHandsOver(uint256 seed) external payoutsStay(seed) {
        address next = person(string(abi.encode("operator", seed % 3)));
        vm.prank(operator);
        distributor.proposeOperator(next);
        vm.prank(next);
        distributor.acceptOperator();
        operator = next;
    }

    /// @dev The operator in the other roles: a donor with a root of its own choice, a claimant, a withdrawer.
    function operatorTriesEverythingElse(uint256 seed) external payoutsStay(seed) {
        (uint256 credited, bool done) = fund(roots[seed % roots.length], 1 + seed % 1000);
        if (done) _book(roots[seed % roots.length], distributor.NO_EPOCH(), credited);
        uint256 due = distributor.owed(operator); // a miner may have named the operator as its recipient
        uint256 before = _everything();
        vm.prank(operator);
        try distributor.withdrawOwed(operator) returns (uint256 amount) {
            vm.assertTrue(due > 0, "nothing was owed to the operator");
            _owedWasSent(operator, due, amount, before);
        } catch {
            vm.assertTrue(due == 0 || _mayRefuse(operator), "withdrawOwed of the operator");
        }
        _checkBooks();
    }

    /* THIEF */

    /// @dev Tickets that were changed or taken from another tree, and the same one twice in a call.
    function thiefClaims(uint256 seed) external {
        if (books.length == 0) return;
        uint256 id = _payoutId(seed);
        bytes32 root = draw(seed, "tree") % 2 == 0 ? books[id].root : roots[draw(seed, "root") % roots.length];
        Trees.Ticket memory ticket = _ticket(root, seed);
        if (draw(seed, "mutate") % 4 != 0) ticket = Trees.mutated(ticket, draw(seed, "mutation"));
        IDistributor.Claim[] memory claims = new IDistributor.Claim[](1 + seed % 2);
        claims[0] = IDistributor.Claim(id, ticket.index, ticket.weight, ticket.proof);
        if (claims.length == 2) claims[1] = claims[0];
        _claim(ticket.payee, claims, seed);
        IDistributor.PayeeClaim[] memory same = new IDistributor.PayeeClaim[](2);
        same[0] = IDistributor.PayeeClaim(ticket.payee, ticket.index, ticket.weight, ticket.proof);
        same[1] = same[0];
        _claimMany(id, same, thief);
        ++happened["theft tried"];
    }

    function thiefPlaysOthers(uint256 seed) external {
        bytes memory answer;
        bool done;
        bytes[6] memory calls = [
            abi.encodeCall(distributor.commit, (roots[seed % roots.length], bytes32(0))),
            abi.encodeCall(distributor.lowerFee, (0)),
            abi.encodeCall(distributor.proposeOperator, (thief)),
            abi.encodeCall(distributor.acceptOperator, ()),
            abi.encodeCall(distributor.setRecipientBySig, (wallets[seed % 3].addr, thief, type(uint256).max, "")),
            abi.encodeCall(distributor.claim, (payees[seed % payees.length], new IDistributor.Claim[](0)))
        ];
        vm.prank(thief);
        (done, answer) = address(distributor).call(calls[seed % calls.length]);
        vm.assertFalse(done, "a call that is not the thief's");
        vm.assertTrue(answer.length >= 4, "a refusal without a name");
    }

    /// @dev The two troublemakers, who are payees, change their manners; so does a token.
    function recipientsMakeTrouble(uint256 seed) external {
        bytes[6] memory calls = [
            abi.encodeCall(distributor.sync, ()),
            abi.encodeCall(distributor.withdrawFee, ()),
            abi.encodeCall(distributor.withdrawOwed, (thief)),
            abi.encodeCall(distributor.sendOwed, (people[seed % people.length])),
            abi.encodeCall(distributor.claim, (payees[2], new IDistributor.Claim[](0))),
            abi.encodeCall(distributor.claimMany, (0, new IDistributor.PayeeClaim[](0)))
        ];
        uint256 choice = draw(seed, "mood") % 12;
        Troublemaker.Mood mood = choice < 8 ? Troublemaker.Mood(choice) : Troublemaker.Mood.CallBack;
        troublemakers[seed % 2].behave(mood, calls[draw(seed, "call") % calls.length]);
        changeAsset(seed);
    }

    /* DONOR */

    function donorSends(uint256 seed) external {
        arrive(_amount(seed));
        ++happened["arrival"];
    }

    function donorFunds(uint256 seed) external {
        bytes32 root = _plant(seed);
        (uint256 credited, bool done) = fund(root, _amount(draw(seed, "amount")));
        if (done) {
            vm.assertTrue(SumTree.sumOf(root) > 0, "funded a root without weight");
            _book(root, distributor.NO_EPOCH(), credited);
            ++happened["fund"];
        }
        _checkBooks();
    }

    /* PROMISES */

    function checkPromises() external view {
        uint256 balance = assetOf(address(distributor));
        vm.assertEq(open + _owed() + feeDue, accounted, "the books");
        vm.assertEq(distributor.feeOwed(), feeDue, "the fee owed");
        vm.assertEq(distributor.totalAccounted(), accounted, "not yet paid + owed + fee");
        vm.assertLe(accounted, balance, "the balance does not cover what is not yet paid + owed + fee");
        vm.assertEq(_held() + balance, cameIn, "money came from nowhere or vanished");
        vm.assertEq(distributor.operator(), operator, "the operator");
        vm.assertEq(uint256(distributor.feeBps()), feeBps, "the fee");
        IDistributor.Epoch memory epoch = distributor.activeEpoch();
        vm.assertEq(epoch.root, active.root, "the active root");
        vm.assertEq(uint256(epoch.number), active.number, "the active epoch's number");
        vm.assertEq(distributor.pendingEpoch().root, pending.root, "the pending root");
        for (uint256 i = 0; i < troublemakers.length; ++i) {
            vm.assertEq(troublemakers[i].intrusions(), 0, "a call from inside a payment went through");
        }
    }

    /// @dev The end of every run: payouts are as they were recorded, the bits are the books', and everybody can still
    ///      be paid everything.
    function settle() external {
        calmAsset();
        for (uint256 i = 0; i < troublemakers.length; ++i) {
            troublemakers[i].behave(Troublemaker.Mood.Accept, "");
        }
        uint256 first = books.length > 8 ? books.length - 8 : 0;
        for (uint256 id = 0; id < books.length; ++id) {
            _checkBook(id);
            for (uint256 i = 0; i < payees.length; ++i) {
                vm.assertEq(distributor.isClaimed(payees[i], id), isPaid[payees[i]][id], "the claimed bits");
            }
            if (id < first) continue;
            Trees.Ticket[] memory all = tickets[books[id].root];
            IDistributor.PayeeClaim[] memory claims = new IDistributor.PayeeClaim[](all.length);
            for (uint256 i = 0; i < all.length; ++i) {
                claims[i] = IDistributor.PayeeClaim(all[i].payee, all[i].index, all[i].weight, all[i].proof);
            }
            _claimMany(id, claims, relayer);
            for (uint256 i = 0; i < all.length; ++i) {
                bool isDue = all[i].valid && distributor.recipientOf(all[i].payee) != address(0);
                if (isDue) vm.assertTrue(distributor.isClaimed(all[i].payee, id), "a payee was left behind");
            }
        }
        for (uint256 i = 0; i < people.length; ++i) {
            uint256 due = distributor.owed(people[i]);
            if (due == 0) continue;
            accounted -= due;
            vm.assertEq(distributor.sendOwed(people[i]), due, "owed money can be sent in the end");
        }
        if (feeDue > 0) {
            accounted -= feeDue;
            feeDue = 0;
            distributor.withdrawFee();
        }
        this.checkPromises();
    }

    /* CLAIMS, JUDGED BY THE PLAIN RULES */

    function _claim(bytes21 payee, IDistributor.Claim[] memory claims, uint256 seed) private {
        (bool isGood, uint256 expected) = _judge(payee, claims);
        Funds memory before = _funds();
        address[] memory recipients = new address[](1);
        if (expected > 0) recipients[0] = distributor.recipientOf(payee);
        vm.prank(seed % 2 == 0 ? relayer : thief);
        try distributor.claim(payee, claims) returns (uint256 amount) {
            vm.assertTrue(isGood, "a claim that must be refused");
            vm.assertEq(amount, expected, "the amount of a claim");
            for (uint256 i = 0; i < claims.length; ++i) {
                _paid(payee, claims[i].payoutId, _part(claims[i].payoutId, claims[i].weight));
            }
            _checkPayment(expected, before, recipients);
            ++happened["claim"];
            if (claims.length > 1) ++happened["claim of several"];
        } catch {
            vm.assertFalse(isGood, "a claim that must be paid");
            ++happened["claim refused"];
        }
    }

    function _judge(bytes21 payee, IDistributor.Claim[] memory claims)
        private
        view
        returns (bool isGood, uint256 expected)
    {
        if (distributor.recipientOf(payee) == address(0)) return (false, 0);
        for (uint256 i = 0; i < claims.length; ++i) {
            IDistributor.Claim memory item = claims[i];
            if (item.payoutId >= books.length || isPaid[payee][item.payoutId]) return (false, 0);
            for (uint256 j = 0; j < i; ++j) {
                if (claims[j].payoutId == item.payoutId) return (false, 0);
            }
            bytes32 root = books[item.payoutId].root;
            if (!harness.verifyPlain(root, payee, item.weight, item.index, item.proof)) return (false, 0);
            expected += _part(item.payoutId, item.weight);
        }
        return (true, expected);
    }

    function _claimMany(uint256 id, IDistributor.PayeeClaim[] memory claims, address caller) private {
        uint256 expected = 0;
        uint256 count = 0;
        address[] memory recipients = new address[](claims.length);
        for (uint256 i = 0; i < claims.length; ++i) {
            IDistributor.PayeeClaim memory item = claims[i];
            if (isPaid[item.payee][id]) continue;
            address recipient = distributor.recipientOf(item.payee);
            if (recipient == address(0)) continue;
            if (!harness.verifyPlain(books[id].root, item.payee, item.weight, item.index, item.proof)) continue;
            uint256 part = _part(id, item.weight);
            _paid(item.payee, id, part);
            if (part > 0) recipients[i] = recipient;
            expected += part;
            ++count;
        }
        Funds memory before = _funds();
        vm.prank(caller);
        (uint256 paid, uint256 amount) = distributor.claimMany(id, claims);
        vm.assertEq(paid, count, "how many a batch paid");
        vm.assertEq(amount, expected, "how much a batch paid");
        _checkPayment(expected, before, recipients);
        if (count > 1) ++happened["batch of several"];
    }

    function _paid(bytes21 payee, uint256 id, uint256 part) private {
        vm.assertFalse(isPaid[payee][id], "a payee was paid twice by a payout");
        isPaid[payee][id] = true;
        books[id].paid += part;
        open -= part;
        vm.assertLe(books[id].paid, books[id].amount, "a payout paid more than its amount");
    }

    /// @dev What was paid reached somebody; or it is owed to one who may refuse, or waits again because it came back. A
    ///      recipient that sends back may add what it held before, and a token's charge on that may exceed what was
    ///      paid: so the three are compared together. Nobody else holds less than before.
    /// @param recipients Whom something was sent to; zeros stand for nobody.
    function _checkPayment(uint256 expected, Funds memory before, address[] memory recipients) private {
        Funds memory now_ = _funds();
        uint256 worth = before.held + before.owed + before.waiting;
        vm.assertEq(now_.held + now_.owed + now_.waiting, worth + expected, "what was paid did not arrive");
        vm.assertLe(before.owed, now_.owed, "a payment took what was owed");
        vm.assertLe(before.waiting, now_.waiting, "a payment took what waited");
        bool mayRefuse = false;
        bool mayComeBack = false;
        for (uint256 i = 0; i < recipients.length; ++i) {
            if (recipients[i] == address(0)) continue;
            mayRefuse = mayRefuse || _mayRefuse(recipients[i]);
            mayComeBack = mayComeBack || _mayComeBack(recipients[i]);
        }
        uint256 newlyOwed = now_.owed - before.owed;
        uint256 cameBack = now_.waiting - before.waiting;
        if (!mayRefuse) vm.assertEq(newlyOwed, 0, "owed to somebody who takes money");
        if (!mayComeBack) vm.assertEq(cameBack, 0, "taken for paid and not sent");
        for (uint256 i = 0; i < people.length; ++i) {
            if (now_.holdings[i] >= before.holdings[i]) continue;
            bool isPaidHere = false;
            for (uint256 j = 0; j < recipients.length; ++j) {
                isPaidHere = isPaidHere || recipients[j] == people[i];
            }
            vm.assertTrue(isPaidHere && _mayComeBack(people[i]), "a payment took what somebody held");
        }
        if (newlyOwed > 0) ++happened["owed"];
        if (cameBack > 0) ++happened["sent back"];
        if (cameBack > expected) ++happened["sent back more"];
        accounted = accounted - expected + newlyOwed;
    }

    function _owedWasSent(address creditor, uint256 due, uint256 amount, uint256 before) private {
        vm.assertEq(amount, due, "what was owed");
        vm.assertEq(distributor.owed(creditor), 0, "still owed");
        // What was owed is now held by somebody, or came back.
        vm.assertEq(_everything(), before, "owed money on its way");
        accounted -= due;
    }

    function _part(uint256 id, uint256 weight) private view returns (uint256) {
        return books[id].amount * weight / SumTree.sumOf(books[id].root);
    }

    /* THE RULES OF ATTRIBUTION */

    /// @dev What has arrived belongs to the root that is active now.
    function _expectAttribution(uint256 minimum) private {
        uint256 arrived = assetOf(address(distributor)) - accounted;
        if (arrived == 0 || arrived < minimum) return;
        _book(active.root, active.number, arrived);
        ++happened["attribution"];
    }

    function _expectActivation() private {
        _expectAttribution(0);
        active = pending;
        delete pending;
        ++happened["activation"];
    }

    function _book(bytes32 root, uint256 epoch, uint256 received) internal {
        uint256 fee = received * feeBps / 10_000;
        books.push(Book(root, received - fee, epoch, block.timestamp, 0));
        feeDue += fee;
        open += received - fee;
        accounted += received;
    }

    /// @dev The distributor has recorded exactly the payouts that the books have.
    function _checkBooks() private view {
        vm.assertEq(distributor.payoutCount(), books.length, "the number of payouts");
        if (books.length > 0) _checkBook(books.length - 1);
        if (books.length > 1) _checkBook(books.length - 2);
    }

    function _checkBook(uint256 id) private view {
        IDistributor.Payout memory payout = distributor.payout(id);
        vm.assertEq(payout.root, books[id].root, "the root of a payout");
        vm.assertEq(uint256(payout.amount), books[id].amount, "the amount of a payout");
        vm.assertEq(uint256(payout.epoch), books[id].epoch, "the epoch of a payout");
        vm.assertEq(uint256(payout.time), books[id].time, "the time of a payout");
    }

    function _checkRecipient(bytes21 payee, address recipient, uint256 nonce) private view {
        bool isDefault = recipient == address(0) && payee[0] == 0;
        address expected = isDefault ? address(uint160(uint168(payee))) : recipient;
        vm.assertEq(distributor.recipientOf(payee), expected, "the recipient");
        vm.assertEq(distributor.nonceOf(payee), nonce + 1, "the nonce");
    }

    /* LOOKING */

    /// @dev What a payment adds to; open parts of payouts and the fee are left out.
    function _everything() private view returns (uint256) {
        Funds memory funds = _funds();
        return funds.held + funds.owed + funds.waiting;
    }

    function _funds() private view returns (Funds memory funds) {
        funds.holdings = new uint256[](people.length);
        for (uint256 i = 0; i < people.length; ++i) {
            funds.holdings[i] = assetOf(people[i]);
            funds.held += funds.holdings[i];
        }
        funds.owed = _owed();
        (uint256 balance, uint256 known) = (assetOf(address(distributor)), distributor.totalAccounted());
        vm.assertLe(known, balance, "the balance does not cover what the distributor accounts for");
        funds.waiting = balance - known;
    }

    function _held() private view returns (uint256) {
        return _funds().held;
    }

    function _owed() private view returns (uint256 sum) {
        for (uint256 i = 0; i < people.length; ++i) {
            sum += distributor.owed(people[i]);
        }
        sum += distributor.owed(address(distributor));
    }

    function _allPayouts(uint256 count) private view returns (bytes32 digest) {
        for (uint256 id = count > 6 ? count - 6 : 0; id < count; ++id) {
            digest = keccak256(abi.encode(digest, distributor.payout(id)));
        }
    }

    function _worthOfAny(uint256 seed) private view returns (uint256) {
        return _worthOfAny(seed, books.length);
    }

    function _worthOfAny(uint256 seed, uint256 count) private view returns (uint256) {
        if (count == 0) return 0;
        uint256 id = draw(seed, "payout") % count;
        Trees.Ticket memory ticket = _ticket(books[id].root, seed);
        IDistributor.Claim[] memory claims = new IDistributor.Claim[](1);
        claims[0] = IDistributor.Claim(id, ticket.index, ticket.weight, ticket.proof);
        return distributor.claimable(ticket.payee, claims);
    }

    /// @dev Whether money for it may bounce. Wallets always take the chain's coin.
    function _mayRefuse(address account) internal view virtual returns (bool) {
        for (uint256 i = 0; i < troublemakers.length; ++i) {
            if (account == address(troublemakers[i])) return true;
        }
        return false;
    }

    /// @dev Whether money for it may be at the distributor again when the call ends.
    function _mayComeBack(address account) private view returns (bool) {
        for (uint256 i = 0; i < troublemakers.length; ++i) {
            if (account != address(troublemakers[i])) continue;
            return troublemakers[i].mood() == Troublemaker.Mood.SendBack;
        }
        return account == address(distributor);
    }

    /* CHOOSING */

    function _account(address account) internal pure returns (bytes21) {
        return bytes21(uint168(uint160(account)));
    }

    /// @dev Mostly a person; sometimes nobody or the distributor itself.
    function _home(uint256 random) private view returns (address) {
        uint256 choice = random % (people.length + 2);
        if (choice == people.length) return address(0);
        return choice < people.length ? people[choice] : address(distributor);
    }

    function _amount(uint256 random) private pure returns (uint256) {
        uint256 kind = random % 4;
        if (kind == 0) return 1 + random / 4 % 100;
        if (kind == 1) return 10 ** 9 + random / 4 % 1000;
        return 1 + random / 4 % 2 ** (kind == 2 ? 64 : 100);
    }

    /// @dev Mostly one of the last payouts.
    function _payoutId(uint256 random) private view returns (uint256) {
        uint256 count = books.length;
        if (count > 5 && random % 4 != 0) return count - 1 - draw(random, "recent") % 5;
        return draw(random, "payout") % count;
    }

    function _ticket(bytes32 root, uint256 random) private view returns (Trees.Ticket memory) {
        Trees.Ticket[] storage all = tickets[root];
        return all[draw(random, "ticket") % all.length];
    }

    /// @dev A ticket of this payee, where the tree has one.
    function _ticketOf(bytes21 payee, bytes32 root, uint256 random) private view returns (Trees.Ticket memory) {
        Trees.Ticket[] storage all = tickets[root];
        for (uint256 i = 0; i < all.length; ++i) {
            if (all[i].payee == payee) return all[i];
        }
        return _ticket(root, random);
    }

    /// @dev A tree to commit to or to fund: honest, malicious, or one that is known already.
    function _plant(uint256 seed) private returns (bytes32 root) {
        if (roots.length >= MOST_TREES) return roots[draw(seed, "root") % roots.length];
        Trees.Tree memory tree =
            draw(seed, "kind") % 3 == 0 ? _honestTree(seed) : Trees.malicious(payees, draw(seed, "tree"));
        root = tree.root();
        if (tickets[root].length > 0) return root;
        for (uint256 i = 0; i < tree.ticketCount; ++i) {
            tickets[root].push(tree.tickets[i]);
        }
        // A tree without any leaf can be committed to as well; another tree's ticket, worthless here, is tried on it.
        if (tree.ticketCount == 0) {
            tickets[root].push(tickets[roots[0]][0]);
            tickets[root][0].valid = false;
        }
        if (SumTree.sumOf(root) > 0) roots.push(root);
    }

    function _honestTree(uint256 seed) private view returns (Trees.Tree memory) {
        bytes21[] memory sorted = payees;
        for (uint256 i = 1; i < sorted.length; ++i) {
            for (uint256 j = i; j > 0 && sorted[j - 1] > sorted[j]; --j) {
                (sorted[j - 1], sorted[j]) = (sorted[j], sorted[j - 1]);
            }
        }
        uint64[] memory weights = new uint64[](sorted.length);
        for (uint256 i = 0; i < weights.length; ++i) {
            weights[i] = uint64(1 + (draw(seed, "weight") >> 8 * i) % 2 ** 57);
        }
        return Trees.honest(sorted, weights);
    }
}
