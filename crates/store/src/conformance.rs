//! The suite every [`Store`] must pass, written against the trait.
//!
//! An implementation's tests give a [`Fixture`] to [`conformance_suite!`](crate::conformance_suite), which makes one
//! test of each function here.
//!
//! * [`world`]: tenants, callers and open sessions for the tests.
//! * [`writes`]: order, atomicity, leases, heads, lives. [`runs`]: idempotency and the journal.
//! * [`generations`]: switching and coming back. [`reads`]: ranges, drafts, permissions. [`lists`]: filters and pages.
//! * [`tenancy`]: what one tenant never sees of another.

pub mod generations;
pub mod lists;
pub mod reads;
pub mod runs;
pub mod tenancy;
pub mod world;
pub mod writes;

use std::future::Future;
use std::sync::Arc;

use watertight_seal::token::TokenHasher;

use crate::Store;

/// A store under test and the hasher that goes with it.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Hashes tokens for comparison with stored ones.
    pub hasher: Arc<TokenHasher>,
}

/// Where the store under test lives.
pub trait Fixture {
    /// Opens it: empty the first time, with what it held afterwards. The suite has dropped the former one by then.
    fn open(&self) -> impl Future<Output = Subject> + Send;
}

/// Makes one `#[tokio::test]` per case of the suite. `$fixture` is an expression that makes a fresh [`Fixture`].
#[macro_export]
macro_rules! conformance_suite {
    ($fixture:expr) => {
        $crate::conformance_suite! { $fixture;
            writes: [
                entries_keep_their_order,
                a_batch_is_applied_whole_or_not_at_all,
                of_two_drafts_of_one_key_one_is_written,
                a_writer_that_lost_its_lease_cannot_write,
                a_stale_head_cannot_write,
                an_older_life_cannot_write,
                a_draft_scope_goes_on_after_its_first_commit,
                a_missing_parent_is_the_leaf,
                everything_is_there_after_reopening,
            ];
            runs: [
                a_run_id_is_accepted_once_per_principal,
                a_run_moves_on_and_ends_once,
                a_run_that_was_never_accepted_cannot_move,
                unfinished_sessions_come_longest_waiting_first,
                open_runs_are_admitted_anew_in_the_order_of_their_inputs,
                a_run_is_interrupted_once,
            ];
            generations: [
                a_switch_starts_a_new_transcript_and_keeps_the_old_one,
                switching_back_goes_on_where_the_transcript_ended,
                switching_to_the_live_generation_changes_nothing,
                a_generation_is_found_in_every_session_that_holds_it,
                a_generation_is_found_among_the_callers_own_sessions_only,
                a_draft_may_choose_its_generation,
            ];
            reads: [
                a_range_is_the_entries_it_names,
                pages_back_from_the_end_join_while_the_session_is_written,
                an_entry_is_found_by_its_id_in_its_own_session_only,
                a_receipt_names_the_place_of_its_entry,
                a_draft_reads_as_empty_and_writes_nothing,
                reading_allows_no_writing,
                a_description_is_what_was_last_written,
            ];
            lists: [
                pinned_sessions_come_first_then_the_latest_written,
                filters_meet,
                search_and_label_look_into_sealed_fields,
                a_time_bounds_pinned_sessions_and_others_alike,
                a_total_follows_every_change,
                an_agent_of_many_sessions_is_listed_like_one_of_few,
                pages_join_without_gap_or_repeat,
                a_caller_lists_under_its_own_prefixes_only,
                a_caller_without_read_lists_nothing,
            ];
            tenancy: [
                tenants_with_the_same_names_are_apart,
                a_tenant_is_made_once,
                only_the_operators_own_token_is_accepted,
            ];
        }
    };
    ($fixture:expr; $($module:ident: [$($case:ident),* $(,)?];)*) => { $(
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::conformance::$module::$case(&$fixture).await;
                }
            )*
        }
    )* };
}
