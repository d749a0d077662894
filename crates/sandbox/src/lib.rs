//! The launcher of server-side tools. Nothing is launched yet: the two built-in tools run in the engine and touch
//! neither files, processes nor network.
//!
//! What will live here, and why apart: starting a process with Landlock, seccomp, resource limits and an allow-listed
//! environment needs the one audited exception to `forbid(unsafe_code)`, so it stays a small crate that knows nothing of
//! sessions. Every layer is required: where the kernel cannot give one, tools are off (isolation.md §2.9).
//!
//! * `policy`: what one tool may read, write, run and reach.
//! * `launch`: the process group under that policy, its pipes, limits and end.
