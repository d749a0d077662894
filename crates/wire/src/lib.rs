//! placeholder

pub mod openai;
