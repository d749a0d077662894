//! Devices: how one comes to be known, and who says what it may do (isolation.md §2.2, §2.3; gateway-ws.md §1.6, §1.7).
//!
//! * [`arrival`]: a proven device at the door: with a secret, with its token, with a setup code, with nothing.
//! * [`keeping`]: looking at devices and requests, deciding, taking away.
//! * [`in_use`]: what is open on a device, so that it ends with it.

mod arrival;
mod in_use;
mod keeping;

use std::sync::Arc;

use watertight_store::Store;

use crate::admission::Admission;
use crate::engine::Engine;

pub use arrival::{Arrival, Known, Let, Newcomer, Pending, Wanting};
pub(crate) use in_use::InUse;
pub use in_use::Seat;
pub use keeping::{Ending, Invited, Keeper, Withdrawn};
pub use watertight_core::device::{DeviceId, PairingId, ProvenDevice};
pub use watertight_store::device::{ApprovedVia, Decided, Description, DeviceRow, PairingRow, Withdrawal};

impl Engine {
    fn store(&self) -> &Arc<dyn Store> {
        &self.shared().store
    }

    fn admission(&self) -> &Admission {
        &self.shared().admission
    }

    fn devices_in_use(&self) -> &InUse {
        &self.shared().devices
    }
}
