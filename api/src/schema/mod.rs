//! The wire schema of every kind: protobuf tags, JSON names, types, merge keys. It drives protobuf
//! request decoding, strict field validation, strategic merge patch and the OpenAPI documents.

mod check;
mod descriptions;
#[rustfmt::skip]
mod generated;
mod json;
mod json_error;
mod memory;
mod order;
mod protobuf;
mod strategic;
mod table;
mod wire;

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod encode;
#[cfg(test)]
mod fuzz;
#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

pub use check::{TypeErrors, check};
pub use descriptions::Descriptions;
pub use json::{JsonError, Parsed, parse_json, parse_yaml};
pub use memory::{decoded_bytes, node_bytes};
pub use protobuf::{ProtobufError, decode_protobuf, decode_protobuf_or};
pub use strategic::{PatchError, strategic_merge};
pub use table::{
    Field, KindEntry, ListType, Message, Shape, Type, fingerprint, kinds, message, messages,
};
