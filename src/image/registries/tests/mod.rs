//! Parsing, lookup and reloading of the configuration of registries.

mod conf;
mod load;
mod lookup;
