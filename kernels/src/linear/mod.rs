//! Packed weights, quantised activations, and their product.
//!
//! A weight matrix is packed once ([`Packed`]) into panels of 16 rows; a batch of activations is
//! quantised once ([`Acts`]) and may then be multiplied by several matrices in one parallel region
//! ([`linear`]): query, key and value together, or gate and up.
//!
//! - `layout`: where the parts of packed weights and activations lie
//! - `format`: how kernels read each packed format; `packing`: which one a type takes
//! - `product`: what is multiplied by whom, when and by which thread
//! - `kernel`, `float`: the products, written once for all formats and tiers
//! - `dot`, `dot_*`: the integer instructions of each tier; `tiers`: the choice among them
//! - `pack`: from file to panels; `acts`, `quantise`: from floats to int8
//! - `gated`: two products, what comes between them and the next, and its quantisation in one

mod acts;
mod dot;
#[cfg(target_arch = "aarch64")]
mod dot_neon;
mod dot_portable;
#[cfg(target_arch = "x86_64")]
mod dot_x86;
mod float;
mod format;
mod gated;
mod kernel;
mod layout;
mod pack;
mod packed;
mod packing;
mod product;
mod quantise;
mod tiers;

pub use acts::Acts;
pub use gated::gated;
pub use packed::{PackError, Packed};
pub use product::linear;

#[cfg(test)]
mod tests;
