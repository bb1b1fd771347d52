"""How good a model is, compared with what, how surely, and what that means for a release."""
