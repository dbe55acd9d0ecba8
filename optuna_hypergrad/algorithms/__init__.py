"""The outer algorithms: pure numpy, state in, state out."""
