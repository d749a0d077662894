//! What `strace -f -o` wrote.
//!
//! A line stands at the moment the tracer saw the call begin or end, and the traced thread waits for the tracer at both
//! moments. So if the end of one call stands before the beginning of another, it was over when the other began.

use std::collections::HashMap;

/// A system call of the program.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Line at which it began, and at which it ended. Both are points in one order, each point taken once.
    pub(crate) begun: usize,
    pub(crate) ended: usize,
    pub(crate) name: String,
    /// Arguments as text, and all of what came after them.
    pub(crate) text: String,
    /// What it returned; -1 for an error.
    pub(crate) result: i64,
    /// What its first argument was when it began.
    pub(crate) target: Target,
}

/// What a file descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The store's write-ahead log.
    Log,
    /// The store itself.
    Database,
    /// A client's connection.
    Client,
    /// Anything else.
    Other,
}

/// All calls in the order in which they began.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
}

impl Call {
    /// Of the log.
    pub(crate) fn is_sync(&self) -> bool {
        self.target == Target::Log && self.is_file_sync()
    }

    pub(crate) fn is_file_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync")
    }

    pub(crate) fn is_log_write(&self) -> bool {
        self.target == Target::Log && self.is_file_write()
    }

    pub(crate) fn is_file_write(&self) -> bool {
        matches!(self.name.as_str(), "pwrite64" | "pwritev" | "pwritev2" | "write" | "writev")
    }

    /// The log's own header, which holds no commit.
    pub(crate) fn is_log_header(&self) -> bool {
        self.is_log_write() && self.name == "pwrite64" && self.text.contains(", 32, 0)")
    }

    pub(crate) fn is_receipt(&self) -> bool {
        self.target == Target::Client && matches!(self.name.as_str(), "read" | "readv" | "recvfrom" | "recvmsg")
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.target == Target::Client && matches!(self.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.result >= 0
    }
}

impl Trace {
    /// Whether the end of the process itself stands there, not only of a thread.
    pub(crate) fn is_complete(text: &str, pid: u32) -> bool {
        text.lines().rev().take(200).any(|line| {
            let (thread, rest) = split_thread(line);
            thread == pid.to_string() && (rest.starts_with("+++ exited with") || rest.starts_with("+++ killed by"))
        })
    }

    pub(crate) fn read(text: &str) -> Self {
        let mut calls: Vec<Call> = Vec::new();
        // What each thread is in the middle of.
        let mut open: HashMap<&str, Call> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let (thread, rest) = split_thread(line);
            let (begun, ended) = (2 * number, 2 * number + 1);
            if let Some(resumed) = rest.strip_prefix("<... ") {
                let Some(mut call) = open.remove(thread) else { continue };
                call.text.push_str(resumed.split_once("resumed>").map_or(resumed, |(_, rest)| rest));
                call.ended = ended;
                calls.push(call);
            } else if let Some((name, arguments)) = rest.split_once('(')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            {
                let call = Call {
                    begun,
                    ended,
                    name: name.to_owned(),
                    text: arguments.trim_end_matches(" <unfinished ...>").to_owned(),
                    result: -1,
                    target: Target::Other,
                };
                if arguments.ends_with("<unfinished ...>") {
                    open.insert(thread, call);
                } else {
                    calls.push(call);
                }
            }
        }
        // A call that never ended, such as one that a kill cut short, began all the same.
        calls.extend(open.into_values().map(|call| Call { ended: usize::MAX, ..call }));
        calls.sort_by_key(|call| call.begun);
        for call in &mut calls {
            call.result = result(&call.text);
        }
        let mut trace = Self { calls };
        trace.follow_descriptors();
        trace
    }

    /// Notes what each call's first argument stands for. Descriptors are reused, so this follows them through time.
    fn follow_descriptors(&mut self) {
        // By the moment at which it happens: a call looks at its descriptor when it begins; a new one exists at the end.
        let mut moments: Vec<(usize, usize, bool)> = Vec::new();
        for (at, call) in self.calls.iter().enumerate() {
            moments.push((call.begun, at, true));
            if matches!(call.name.as_str(), "openat" | "accept4" | "accept") && call.succeeded() {
                moments.push((call.ended, at, false));
            }
        }
        moments.sort_unstable();
        let mut descriptors: HashMap<i64, Target> = HashMap::new();
        for (_, at, begins) in moments {
            let call = &mut self.calls[at];
            let first = number(&call.text);
            match (begins, call.name.as_str()) {
                (false, "openat") if call.text.contains("/store.db-wal\"") => {
                    descriptors.insert(call.result, Target::Log);
                }
                (false, "openat") if call.text.contains("/store.db\"") => {
                    descriptors.insert(call.result, Target::Database);
                }
                (false, "openat") => {
                    descriptors.insert(call.result, Target::Other);
                }
                (false, _) => {
                    descriptors.insert(call.result, Target::Client);
                }
                (true, "close") => {
                    first.and_then(|first| descriptors.remove(&first));
                }
                (true, _) => {
                    let known = first.and_then(|first| descriptors.get(&first));
                    call.target = known.copied().unwrap_or(Target::Other);
                }
            }
        }
    }
}

/// The thread and the rest of a line.
fn split_thread(line: &str) -> (&str, &str) {
    let (thread, rest) = line.split_once(' ').unwrap_or((line, ""));
    (thread, rest.trim_start())
}

/// The number a text starts with.
fn number(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
    text[..end].parse().ok()
}

/// What follows the last `) = `.
fn result(text: &str) -> i64 {
    text.rsplit_once(") ").map_or(-1, |(_, rest)| {
        let rest = rest.trim_start().trim_start_matches("= ");
        number(rest).unwrap_or(-1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_whole_also_where_others_came_between() {
        let trace = Trace::read(
            "10 openat(AT_FDCWD, \"/s/store.db-wal\", O_RDWR, 0600) = 5\n\
             10 accept4(3, {sa_family=AF_INET}, [16], SOCK_CLOEXEC) = 7\n\
             11 pwrite64(5, \"x\"..., 4120, 32 <unfinished ...>\n\
             10 recvfrom(7, \"run (1) = 2\", 8192, 0, NULL, NULL) = 11\n\
             11 <... pwrite64 resumed>)        = 4120\n\
             11 fsync(5)                       = -1 EIO (Input/output error) (INJECTED)\n\
             10 close(7)                       = 0\n\
             10 openat(AT_FDCWD, \"/etc/hosts\", O_RDONLY) = 7\n\
             10 read(7, \"\", 10)              = 0\n\
             11 fsync(5 <unfinished ...>\n\
             10 +++ killed by SIGKILL +++\n",
        );
        let told: Vec<(&str, usize, usize, i64, Target)> =
            trace.calls.iter().map(|c| (c.name.as_str(), c.begun, c.ended, c.result, c.target)).collect();
        assert_eq!(
            told,
            [
                ("openat", 0, 1, 5, Target::Other),
                ("accept4", 2, 3, 7, Target::Other),
                ("pwrite64", 4, 9, 4120, Target::Log),
                ("recvfrom", 6, 7, 11, Target::Client),
                ("fsync", 10, 11, -1, Target::Log),
                ("close", 12, 13, 0, Target::Other),
                ("openat", 14, 15, 7, Target::Other),
                ("read", 16, 17, 0, Target::Other),
                ("fsync", 18, usize::MAX, -1, Target::Log),
            ]
        );
        assert!(Trace::is_complete("12 +++ exited with 0 +++\n10 +++ killed by SIGKILL +++", 10));
        assert!(!Trace::is_complete("12 +++ exited with 0 +++\n10 read(3, \"+++ exited with\"", 10));
    }
}
