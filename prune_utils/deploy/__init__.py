"""What a pruned network is for: small files, common formats, and a CPU engine that skips pruned weights."""
