"""The commands: one thin file a verb. Nothing heavy is imported until a verb needs it."""
