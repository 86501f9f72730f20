"""Names of the files that a baseline leaves in its folder, beside those that a fit leaves as well."""

UPDATES = "updates.jsonl"
"""A line per update."""
LOG = "trl.log"
"""What TRL printed."""
POLICY = "policy.safetensors"
"""TRL's float32 weights at the last validation, until they are exported."""
