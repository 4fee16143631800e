"""Loaded by the fork server before it forks: imports, model and data."""

from tests.faults import writers
from tests.faults.jobs import world

assert writers  # imported for the sake of it
world()
