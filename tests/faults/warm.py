"""Loaded by the fork server before it forks: imports, model and data."""

from tests.faults.jobs import world

world()
