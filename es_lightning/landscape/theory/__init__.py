"""Landscapes that a formula describes: the quadratic ascent, its toy, and the double well."""
