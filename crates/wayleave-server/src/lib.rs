//! The server: the control loop that owns a tailnet, client sessions, probes, and the admin API.
//!
//! ```text
//!  clients ---> listener ---> /key /ts2021 /derp /register ...  --> machine (Noise, HTTP/2) --> register, map --.
//!  people  ---> unix socket, listener ---> api -----------------------------------------------------------------+--> control loop
//!                                                                                                               |    (one task)
//!  clients <--- map sessions <--- netmap <--- snapshots <-------------------------------------------------------'
//! ```

pub mod clock;
pub mod control_loop;

pub use clock::Clock;
pub use control_loop::{CommandError, Control};
