//! GGUF: a hardened, memory-mapped reader and a writer.
