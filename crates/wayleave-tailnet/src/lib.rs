//! One tailnet as a deterministic state machine: plan, apply, next deadline, snapshot.
