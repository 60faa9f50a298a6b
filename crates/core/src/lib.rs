//! Everything Patchcord knows and decides, without IO, clocks or randomness.
#![forbid(unsafe_code)]
