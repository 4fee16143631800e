"""The door to forward passes: hidden states of a forest, for any architecture.

What is behind it (`hidden`, `padded`, `seq2seq`, `probe`, `output`, `rotary`) alone knows that there are several
layouts.
"""

from tunesmith.models.hidden import attention, body_of, hidden_states, layers_again
from tunesmith.models.output import ForwardOutput, Scored, output, scored
from tunesmith.models.probe import Probe, probe
from tunesmith.models.rotary import RopeLimit, rope_limit

__all__ = [
    "ForwardOutput",
    "Probe",
    "RopeLimit",
    "Scored",
    "attention",
    "body_of",
    "hidden_states",
    "layers_again",
    "output",
    "probe",
    "rope_limit",
    "scored",
]
