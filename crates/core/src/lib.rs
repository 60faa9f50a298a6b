//! Everything Patchcord knows and decides.
//!
//! The way of the data is the way of the folders: `xml` reads what people wrote into `model`, `plan` turns a
//! model and what was observed into ordered steps, and `engine` decides when. Nothing in here does IO, reads a
//! clock or draws a random number: those enter as values.
#![forbid(unsafe_code)]

pub mod engine;
pub mod error;
pub mod import;
pub mod intent;
pub mod merge;
pub mod model;
pub mod nodedev;
pub mod plan;
pub mod pool;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod xml;

pub use error::{Error, ErrorKind, Position, Result};
