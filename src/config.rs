//! Configuration: what every knob means, its default and its limits.
