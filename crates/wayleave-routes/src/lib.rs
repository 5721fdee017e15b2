//! The heart: route table, approval life-cycle, liveness evidence, election and failover as a pure state machine.
