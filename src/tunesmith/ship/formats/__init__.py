"""One file an artefact format: how it is written, and how it is run for the parity gate."""
