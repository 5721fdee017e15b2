//! Tests only: simulated clients that speak the wire, virtual time, a reference model.
