//! The Function Router: an OpenAI-compatible provider that answers with local tools where it can. Not built yet.
//!
//! What will live here, over the same scopes, store and tools as every other surface:
//!
//! * `manifest`: the tools of a `functions.jsonl`, checked at start.
//! * `route`: which requests a local tool answers, and which pass through untouched.
//! * `context`: what is kept of a session between its requests, by credential and session.
//! * `history`: the tool calls of a session, for those who may see it.
