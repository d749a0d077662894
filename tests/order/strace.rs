//! The program under `strace`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::{interval, timeout};
use watertight_testkit::{GatewaySetup, PATIENCE};

use crate::trace::Trace;

/// What the proof needs to see.
const CALLS: &str = "openat,close,accept4,accept,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,\
    pwritev2,fsync,fdatasync";

/// A state directory for a program that can be traced, or nothing: then the test is noted as skipped and returns.
pub(crate) fn setup(program: PathBuf) -> Option<GatewaySetup> {
    let found = Command::new("strace").arg("--version").output().is_ok_and(|output| output.status.success());
    // The program keeps others out of its memory, tracers included, unless they may look into everything.
    let privileged = fs::read_to_string("/proc/self/status").is_ok_and(|status| may_trace(&status));
    match (found, privileged) {
        (true, true) => Some(GatewaySetup::new(program)),
        (true, false) => note_skip("strace needs the capability SYS_PTRACE to look into the program"),
        (false, _) => note_skip("strace is not installed"),
    }
}

/// Whether the effective capabilities hold SYS_PTRACE, number 19.
fn may_trace(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set & (1 << 19) != 0)
}

/// Traces what is started from now on. With `failing`, of each thread's syncs that one and all later ones fail.
pub(crate) fn watch(setup: &mut GatewaySetup, failing: Option<usize>) {
    let trace = trace_file(setup);
    let trace = trace.to_str().expect("a path of text");
    let calls = format!("trace={CALLS}");
    let fault = failing.map(|nth| format!("inject=fsync,fdatasync:error=EIO:when={nth}+"));
    let mut command = vec!["strace", "-D", "-f", "-q", "-s", "262144", "-e", &calls, "-o", trace];
    if let Some(fault) = &fault {
        command.extend(["-e", fault]);
    }
    setup.set_wrapper(&command);
}

/// Traces nothing that is started from now on.
pub(crate) fn leave(setup: &mut GatewaySetup) {
    setup.set_wrapper(&[]);
}

fn trace_file(setup: &GatewaySetup) -> PathBuf {
    setup.state_dir().with_file_name("trace.txt")
}

/// The trace of a process that has ended. The tracer may still be writing when its child has gone.
pub(crate) async fn read(setup: &GatewaySetup, pid: u32) -> Trace {
    let path = trace_file(setup);
    let mut ticks = interval(Duration::from_millis(10));
    let complete = timeout(PATIENCE, async {
        loop {
            ticks.tick().await;
            let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            if Trace::is_complete(&text, pid) {
                return text;
            }
        }
    });
    Trace::read(&complete.await.expect("the tracer sees the end of the program"))
}

fn note_skip<T>(why: &str) -> Option<T> {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("{test}: skipped, {why}");
    if let Some(log) = std::env::var_os("WATERTIGHT_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(log).expect("the list of skipped tests");
        writeln!(log, "{test} ({why})").expect("the list of skipped tests can be written");
    }
    None
}

#[test]
fn only_a_tracer_that_may_look_into_the_program_is_used() {
    assert!(may_trace("Name:\tx\nCapEff:\t000001ffffffffff\n"));
    assert!(may_trace("CapEff:\t0000000000080000\n"));
    assert!(!may_trace("CapEff:\t0000000000000000\n") && !may_trace("CapEff:\t0000000000040000\n") && !may_trace(""));
}
