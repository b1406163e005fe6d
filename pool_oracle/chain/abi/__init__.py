"""The contracts' ABI files, exported from the build by scripts/compile.py."""
