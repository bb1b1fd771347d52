"""From a trained change to artefacts that others can run, each proven equal to the evaluated model."""
