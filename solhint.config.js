// Rules of solhint, and why some are off.
module.exports = {
  extends: "solhint:recommended",
  rules: {
    "compiler-version": ["error", "0.8.30"],
    "func-visibility": ["error", { ignoreConstructors: true }],
    // The interfaces carry the whole specification; implementations say @inheritdoc, and private helpers speak for
    // themselves. The rule wants every tag on every one of them.
    "use-natspec": "off",
    // Immutables are read like the functions they implement (IDistributor.minPayout), so they are named like them.
    "immutable-vars-naming": "off",
    // Assembly stands in two places, each with its reason: SumTree.verify and the capped send of NativeDistributor.
    "no-inline-assembly": "off",
    // Plain transfers are how coinbase rewards and bridges pay; DevBridge pays as the real bridge does.
    "no-empty-blocks": "off",
    "avoid-low-level-calls": "off",
    "no-complex-fallback": "off",
    // Comparisons and events are written for the reader; what they cost is measured where it matters.
    "gas-strict-inequalities": "off",
    "gas-indexed-events": "off",
    "gas-small-strings": "off",
    "gas-increment-by-one": "off",
  },
};
