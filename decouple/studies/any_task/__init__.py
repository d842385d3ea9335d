"""The answer for any task: where policy and value should separate there, by training every point of separation."""
