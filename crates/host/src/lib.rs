//! Hands and eyes: the only crate that touches kernel, processes and files.
#![deny(unsafe_code)]
