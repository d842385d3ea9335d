"""What a command does beside its study: parse settings by Hydra, call, print. Only this room imports Hydra."""
