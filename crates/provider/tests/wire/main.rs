//! The providers from outside: the OpenAI client over real sockets, the echo model as callers see it.

mod echo;
mod openai;
mod support;
