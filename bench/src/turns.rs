//! Turns: every surface at full speed, then `chat.send` at a pace and alone, each beside the model without a gateway.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use std::path::Path;
use watertight_testkit::gateway::Gateway;

use crate::figures::{Added, Load, Quantiles, Report, Shape, histogram};
use crate::load::{Crowd, Until};
use crate::process::{self, Each, Programs};
use crate::stage::{self, Model};
use crate::user::{Surface, World};
use crate::{Options, floor, progress};

/// What turns are measured with.
struct Bench<'a> {
    options: &'a Options,
    report: &'a mut Report,
    model: &'a Model,
    programs: Programs,
    world: Arc<World>,
    state_dir: &'a Path,
    commits: Histogram<u64>,
}

pub(crate) async fn measure(
    report: &mut Report,
    binary: &Path,
    model: &Model,
    sessions: &Arc<AtomicU32>,
    options: &Options,
) -> Result<()> {
    let setup = stage::setup(binary, model);
    let gateway = setup.start().await;
    let state_dir = setup.state_dir();
    let mut bench = Bench {
        options,
        report,
        model,
        programs: stage::programs(&gateway, model)?,
        world: stage::world(&gateway, model, "main", options.conversation, sessions),
        state_dir: &state_dir,
        commits: histogram(),
    };
    bench.run(&gateway).await?;
    gateway.terminate().await;
    Ok(())
}

impl Bench<'_> {
    async fn run(&mut self, gateway: &Gateway) -> Result<()> {
        let many = self.options.sessions;
        self.commit()?;
        for surface in [Surface::Direct, Surface::ChatSend, Surface::ChatSendFresh, Surface::Agent] {
            self.load(surface, Shape::FullSpeed, many).await?;
            self.commit()?;
        }
        let full = self.report.load(Surface::ChatSend, |shape| shape == Shape::FullSpeed);
        let pace = Shape::Paced(full.map_or(1.0, |load| load.turns_per_second) * self.options.pace);
        for surface in [Surface::Direct, Surface::ChatSend] {
            self.load(surface, pace, many).await?;
        }
        self.commit()?;
        for surface in [Surface::Direct, Surface::ChatSend] {
            self.load(surface, Shape::Alone, 1).await?;
        }
        self.commit()?;
        self.report.commit_ms = Quantiles::of(&self.commits);
        self.judge();
        self.report.model = Some(self.model.seen().await?);
        if gateway.output().contains("ERROR") {
            self.report.fault(format!("the gateway reports errors:\n{}", gateway.output()));
        }
        Ok(())
    }

    /// A sample of the floor.
    fn commit(&mut self) -> Result<()> {
        let taken =
            floor::synced_commits(self.state_dir, Duration::from_secs_f64((self.options.seconds / 8.0).min(1.0)))?;
        self.report.commit_samples_ms.extend(Quantiles::of(&taken));
        self.commits.add(&taken)?;
        Ok(())
    }

    async fn load(&mut self, surface: Surface, shape: Shape, sessions: usize) -> Result<()> {
        progress(&format!("{} ({shape:?})", surface.name()));
        let time = Duration::from_secs_f64(self.options.seconds);
        let mut crowd = Crowd::gather(&self.world, surface, sessions).await?;
        // Connections to the model, session actors, caches.
        crowd.at_full_speed(Until::Elapsed(time / 4)).await?;

        let resident = || process::resident(self.programs.gateway).map(|kib| kib / 1024.0);
        let (resident_before, seen_before) = (resident()?, self.model.seen().await?);
        let cpu_before = self.programs.cpu()?;
        let tally = match shape {
            Shape::FullSpeed | Shape::Alone => crowd.at_full_speed(Until::Elapsed(time)).await?,
            Shape::Paced(rate) => crowd.at_pace(time, rate).await?,
        };
        let cpu = self.programs.cpu()?;
        let (resident_after, seen) = (resident()?, self.model.seen().await?);

        let turns = tally.turns as f64;
        let spent = |before: f64, after: f64| (after - before) / turns;
        let cpu_ms_per_turn = Each {
            gateway: spent(cpu_before.gateway, cpu.gateway),
            model: spent(cpu_before.model, cpu.model),
            generator: spent(cpu_before.generator, cpu.generator),
        };
        let leaks = tally.leaks + seen.leaks - seen_before.leaks;
        self.report.errors += tally.errors;
        self.report.leaks += leaks;
        self.report.examples.extend(tally.examples);
        let asked = seen.requests - seen_before.requests;
        if tally.errors + leaks == 0 && asked != tally.turns {
            self.report.fault(format!(
                "{}: the model was asked {asked} times for {} turns",
                surface.name(),
                tally.turns
            ));
        }
        if seen.unnamed > seen_before.unnamed {
            self.report.fault(format!("{}: requests reached the model without a session key", surface.name()));
        }
        self.report.loads.push(Load {
            surface,
            shape,
            sessions,
            turns: tally.turns,
            turns_per_second: turns / tally.elapsed.as_secs_f64(),
            acknowledged_ms: Quantiles::of(&tally.acknowledged),
            first_token_ms: Quantiles::of(&tally.first),
            final_ms: Quantiles::of(&tally.done),
            cpu_ms_per_turn,
            allowed_per_second: process::cores() as f64 * 1000.0 / cpu_ms_per_turn.sum(),
            gateway_resident_mib: (resident_before, resident_after),
            errors: tally.errors,
            leaks,
        });
        Ok(())
    }

    /// Compares with the targets.
    fn judge(&mut self) {
        let report = &mut *self.report;
        if let Some(load) = report.load(Surface::ChatSend, |shape| shape == Shape::FullSpeed) {
            let cpu = load.cpu_ms_per_turn.gateway;
            let reached = load.turns_per_second / load.allowed_per_second * 100.0;
            report.at_most("gateway CPU a turn, full speed", cpu, 0.5, "ms", "190-280 ms, 4-7 turns/s");
            report.at_least("share of the rate the CPU allows", reached, 60.0, "%");
        }
        let Some(commit) = report.commit_ms else { return };
        let shapes: [fn(Shape) -> bool; 3] = [
            |shape| shape == Shape::Alone,
            |shape| matches!(shape, Shape::Paced(_)),
            |shape| shape == Shape::FullSpeed,
        ];
        for (fits, words) in shapes.into_iter().zip(["alone", "paced", "full speed"]) {
            let through =
                report.load(Surface::ChatSend, fits).and_then(|load| Some((load.shape, load.first_token_ms?)));
            let without = report.load(Surface::Direct, fits).and_then(|load| load.first_token_ms);
            let (Some((shape, through)), Some(without)) = (through, without) else { continue };
            let added = Added {
                shape,
                p50: through.p50 - without.p50,
                p50_bound: 2.0 * commit.p50 + 1.0,
                p99: through.p99 - without.p99,
                p99_bound: 3.0 * commit.p99 + 1.0,
            };
            report.at_most(format!("added to first token p50, {words}"), added.p50, added.p50_bound, "ms", "");
            report.at_most(format!("added to first token p99, {words}"), added.p99, added.p99_bound, "ms", "");
            report.added.push(added);
        }
    }
}
