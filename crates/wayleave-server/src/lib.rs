//! Control loop, client sessions, fan-out, probes and the admin API.
