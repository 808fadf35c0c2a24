"""Speed, measured side by side with the peers: `python -m bench.peers`, `bench.tokenize`, `bench.startup` (see README.md)."""
