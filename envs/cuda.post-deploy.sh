#!/usr/bin/env bash
# Snakemake runs this inside the new environment, from the repository's root.
set -euo pipefail
pip install --no-deps -e .
