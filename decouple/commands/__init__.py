"""The commands: each parses its settings by Hydra, calls its study and prints. Only this room imports Hydra."""
