//! Packed weights and the matrix product.
