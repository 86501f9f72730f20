"""Probes: random perturbations of one centre, measured, kept and summed up."""
